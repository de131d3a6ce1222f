"""Tables made in one line, batches of ids, and ways to compare states bit by bit."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from monolith.tables import Table, TableConfig, optimizers

MakeTable = Callable[..., Table]


@pytest.fixture
def config() -> Callable[..., TableConfig]:
    """A config of a table ``user`` with 4 columns; any field may be given."""

    def make(**settings: object) -> TableConfig:
        return TableConfig(**({"name": "user", "dim": 4, "optimizer": optimizers.SGD(lr=1.0)} | settings))

    return make


@pytest.fixture
def make_table(config: Callable[..., TableConfig]) -> MakeTable:
    """A table with such a config."""
    return lambda **settings: Table(config(**settings))


@pytest.fixture
def ids() -> Callable[..., np.ndarray]:
    """``ids(1, 2, 3)`` is that int64 array."""
    return lambda *values: np.array(values, np.int64)


@pytest.fixture
def state_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Table], bytes]:
    """The canonical bytes of a table's whole state."""

    def read(table: Table) -> bytes:
        folder: Path = tmp_path_factory.mktemp("state")
        return table.save(folder).read_bytes()

    return read


ENTRY = struct.Struct("<QIIII")


@dataclass
class Parts:
    """A table file taken apart; ``sealed`` puts it together with offsets and checksums that are right."""

    version: int
    header: bytes
    counts: list[list[int]]  # rows, counters, tombstones of each bucket
    buckets: list[bytes]

    @classmethod
    def of(cls, data: bytes) -> Parts:
        _, version, size = struct.unpack_from("<8sII", data)
        directory = 16 + size + (4 if version >= 3 else 0)  # behind the header's own checksum
        entries = [ENTRY.unpack_from(data, directory + ENTRY.size * n) for n in range(1024)]
        ends = [entry[0] for entry in entries[1:]] + [len(data)]
        buckets = [data[entry[0] : end] for entry, end in zip(entries, ends, strict=True)]
        return cls(version, data[16 : 16 + size], [list(entry[1:4]) for entry in entries], buckets)

    def sealed(self) -> bytes:
        head = struct.pack("<8sII", b"MONOTABL", self.version & 0xFFFFFFFF, len(self.header)) + self.header
        apart = self.version >= 3  # the header has a checksum of its own
        if apart:
            head += struct.pack("<I", zlib.crc32(head))
        directory, offset = b"", len(head) + 1024 * ENTRY.size + 4
        for counts, bucket in zip(self.counts, self.buckets, strict=True):
            directory += ENTRY.pack(offset, *counts, zlib.crc32(bucket))
            offset += len(bucket)
        covered = directory if apart else head + directory
        return head + directory + struct.pack("<I", zlib.crc32(covered)) + b"".join(self.buckets)

    def place(self, number: int, name: str) -> tuple[int, int, int]:
        """Where an array of a bucket begins, how many elements it has, and their bytes."""
        rows, counters, tombstones = self.counts[number]
        lengths = {"ids": rows, "last": rows, "counters": counters, "counter_last": counters, "tombstones": tombstones}
        words = {"marks": rows, "counts": counters, "tombstone_marks": tombstones}
        at = 0
        for each, length in [*lengths.items(), *words.items()]:
            width = 8 if each in lengths else 4
            if each == name:
                return at, length, width
            at += length * width
        raise KeyError(name)

    def put(self, number: int, name: str, index: int, value: int) -> None:
        at, length, width = self.place(number, name)
        if length:
            at += (index % length) * width
            data = (value % (1 << 8 * width)).to_bytes(width, "little")
            self.buckets[number] = self.buckets[number][:at] + data + self.buckets[number][at + width :]

    def get(self, number: int, name: str, index: int) -> int:
        at, length, width = self.place(number, name)
        at += (index % length) * width if length else 0
        return int.from_bytes(self.buckets[number][at : at + width], "little")


@pytest.fixture
def parts_of() -> Callable[[bytes], Parts]:
    """Takes a table file apart."""
    return Parts.of
