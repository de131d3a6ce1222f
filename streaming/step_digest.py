"""What a step was made from, in 16 bytes: its journal entry and the records that it took.

A step that is run again takes the same records, unless the stream lost some of them meanwhile (`on_data_loss: skip`)
or another stream stands under the same name. Then the digest differs, and with it that of everything published since.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import msgspec
import xxhash

from monolith.streaming.journal import StepEntry
from monolith.streaming.lanes import Ready


class StepDigest:
    """Of one step; ``add`` the records of each partition in the order in which they are taken."""

    def __init__(self, entry: StepEntry) -> None:
        self._hash = xxhash.xxh3_128(msgspec.msgpack.encode(entry))

    def add(self, items: Sequence[Ready]) -> None:
        """The records that one partition gave: their offsets, ingestion times, lengths and values."""
        records = [item.record for item in items]
        values = [record.value or b"" for record in records]
        self._hash.update(array("q", [len(records), *(r.offset for r in records)]))
        self._hash.update(array("q", [r.ingestion_time_ms for r in records]))
        self._hash.update(array("q", map(len, values)))
        self._hash.update(b"".join(values))

    def digest(self) -> bytes:
        """16 bytes."""
        return self._hash.digest()
