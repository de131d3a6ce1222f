"""What a step was made from, in 16 bytes: its journal entry and the records that it took.

A step that is run again takes the same records, unless the stream lost some of them meanwhile (`on_data_loss: skip`)
or another stream stands under the same name. Then the digest differs, and with it that of everything published since.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from itertools import groupby

import msgspec
import numpy as np
import xxhash

from monolith.events import Record
from monolith.streaming.backlog import Polled, Ready
from monolith.streaming.journal import StepEntry
from monolith.streaming.sample_block import SampleBlock


class StepDigest:
    """Of one step; ``add`` the records of each partition in the order in which they are taken."""

    def __init__(self, entry: StepEntry) -> None:
        self._hash = xxhash.xxh3_128(msgspec.msgpack.encode(entry))

    def add(self, items: Sequence[Polled]) -> None:
        """What one partition gave: records and blocks of rows, in order."""
        for blocks, group in groupby(items, key=lambda item: isinstance(item, SampleBlock)):
            if not blocks:
                self._add_records([item.record for item in group if isinstance(item, Ready)])
                continue
            for block in group:
                assert isinstance(block, SampleBlock)
                self._add_block(block)

    def _add_records(self, records: Sequence[Record]) -> None:
        """Their offsets, ingestion times, lengths and values."""
        values = [record.value or b"" for record in records]
        self._hash.update(array("q", [len(records), *(r.offset for r in records)]))
        self._hash.update(array("q", [r.ingestion_time_ms for r in records]))
        self._hash.update(array("q", map(len, values)))
        self._hash.update(b"".join(values))

    def _add_block(self, block: SampleBlock) -> None:
        """The rows' offsets, times and labels, what is packed of their features, and their keys."""
        self._hash.update(array("q", [-len(block), block.offset]))  # no records begin with a negative number
        for column in (
            *(block.event_time_ms, block.labels, block.heads),
            *(block.tails.lengths, block.tails.data, block.keys.lengths, block.keys.data),
        ):
            self._hash.update(np.ascontiguousarray(column).data)

    def digest(self) -> bytes:
        """16 bytes."""
        return self._hash.digest()
