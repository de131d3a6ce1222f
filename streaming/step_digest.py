"""What a step was made from, in 16 bytes: its journal entry and the records that it took.

A step that is run again takes the same records, unless the stream lost some of them meanwhile (`on_data_loss: skip`)
or another stream stands under the same name. Then the digest differs, and with it that of everything published since.

Where the job's streams are co-partitioned, it is made of the partitions' own, so that several processes can make it.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import msgspec
import numpy as np
import xxhash

from monolith.events import Record
from monolith.streaming.backlog import Polled, Ready
from monolith.streaming.event_block import EventBlock
from monolith.streaming.journal import StepEntry
from monolith.streaming.record_block import RecordBlock
from monolith.streaming.sample_block import SampleBlock

Digests = dict[str, dict[int, bytes]]  # stream -> partition -> digest


def of_partitions(entry: StepEntry, digests: Mapping[str, Mapping[int, bytes]]) -> bytes:
    """The digest of a step, of which ``digests`` has those of each partition's records; 16 bytes."""
    ordered = [(stream, sorted(digests[stream].items())) for stream in sorted(digests)]
    return xxhash.xxh3_128_digest(msgspec.msgpack.encode((entry, ordered)))


class StepDigest:
    """Of one step; ``add`` the records of each partition in the order in which they are taken."""

    def __init__(self, entry: StepEntry | None) -> None:
        """``entry`` None: of the records alone."""
        self._hash = xxhash.xxh3_128(b"" if entry is None else msgspec.msgpack.encode(entry))

    def add(self, items: Sequence[Polled]) -> None:
        """What one partition gave: records and blocks of rows, in order."""
        for blocks, group in groupby(items, key=lambda item: isinstance(item, SampleBlock)):
            if not blocks:
                self._add_records([item for item in group if not isinstance(item, SampleBlock)])
                continue
            for block in group:
                assert isinstance(block, SampleBlock)
                self._add_block(block)

    def _add_records(self, items: Sequence[Ready | EventBlock]) -> None:
        """Their offsets, ingestion times, lengths and values, whether they come in blocks or one by one."""
        parts: list[_Parts] = []
        for in_blocks, group in groupby(items, key=lambda item: isinstance(item, EventBlock)):
            if in_blocks:
                parts += [_of_block(item.records) for item in group if isinstance(item, EventBlock)]
            else:
                parts.append(_of_records([item.record for item in group if isinstance(item, Ready)]))
        self._hash.update(array("q", [sum(len(part[0]) for part in parts)]))
        for column in zip(*parts, strict=True):
            for part in column:
                self._hash.update(part)

    def _add_block(self, block: SampleBlock) -> None:
        """The rows' offsets, times and labels, what is packed of their features, and their keys."""
        self._hash.update(array("q", [-len(block), block.offset]))  # no records begin with a negative number
        for column in (
            *(block.event_time_ms, block.labels, block.heads),
            *(block.bag_data.lengths, block.bag_data.data, block.keys.lengths, block.keys.data),
        ):
            self._hash.update(np.ascontiguousarray(column).data)

    def digest(self) -> bytes:
        """16 bytes."""
        return self._hash.digest()


_Parts = tuple[Any, Any, Any, Any]  # offsets, ingestion times and lengths as int64, then the values; buffers


def _of_records(records: Sequence[Record]) -> _Parts:
    values = [record.value or b"" for record in records]
    return (
        array("q", [record.offset for record in records]),
        array("q", [record.ingestion_time_ms for record in records]),
        array("q", map(len, values)),
        b"".join(values),
    )


def _of_block(records: RecordBlock) -> _Parts:
    values = records.values
    return records.offsets, records.ingestion_time_ms, np.diff(values.ends), values.joined()
