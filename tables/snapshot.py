"""One table as one file, by bucket, each part under its own checksum; ``docs/formats.md`` is its description.

The bytes are a function of the table's logical state: buckets in order, ids ascending within each, so two tables in the
same state give the same file whatever their history. A reader trusts nothing before its checksum holds, and can fetch
single buckets, which is how a number of ranks reads what another number wrote.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple, NoReturn

import msgspec
import numpy as np
import numpy.typing as npt

from monolith.config.table import TableConfig
from monolith.errors import ConfigError, CorruptError, VersionError
from monolith.events import WATERMARK_END, WATERMARK_START
from monolith.tables.bucket_checks import bucket_faults
from monolith.tables.options import checked
from monolith.tables.storage import STORED, narrowed, widened

FILE_NAME = "table.bin"
MAGIC = b"MONOTABL"
VERSION = 2  # what is written; older ones are read
BUCKETS = 1024

Bucket = dict[str, npt.NDArray[Any]]

_PREFIX = struct.Struct("<8sII")  # magic, version, bytes of the JSON header
_ENTRY = struct.Struct("<QIIII")  # of the directory: see Entry
_CRC = struct.Struct("<I")
_UINT32, _UINT64 = 2**32 - 1, 2**64 - 1

# The arrays of a bucket in file order: name, dtype, and whose count gives its length. Eight-byte ones come first.
_PARTS = (
    ("ids", "<i8", "rows"),
    ("last_seen_ms", "<i8", "rows"),
    ("counter_ids", "<i8", "counters"),
    ("counter_last_ms", "<i8", "counters"),
    ("tombstone_ids", "<i8", "tombstones"),
    ("marks", "<u4", "rows"),
    ("counts", "<u4", "counters"),
    ("tombstone_marks", "<u4", "tombstones"),
    ("values", "<f4", "rows"),  # x dim; of another dtype where the table's storage is
    ("state", "<f4", "rows"),  # x state_floats
)


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All of a table's state that is not in a bucket."""

    config: TableConfig
    sequence: int  # the open one
    floor: int  # deltas can start from here on
    clock_ms: int
    sweep_cursor: int
    steps: int = 0  # apply_gradients calls since the table was made; version 1 did not count them
    state_floats: int  # words of optimizer state a row
    statistics: dict[str, int]


class Entry(NamedTuple):
    """One bucket in the directory."""

    offset: int  # from the start of the file, in bytes
    rows: int
    counters: int
    tombstones: int
    crc: int  # CRC-32 of its bytes, as zlib's


def write(folder: Path, header: Header, buckets: Iterator[Bucket]) -> Path:
    """Write ``folder/table.bin`` and fsync it. Raises OSError, and then leaves what was there before as it was."""
    folder.mkdir(parents=True, exist_ok=True)
    path, part = folder / FILE_NAME, folder / (FILE_NAME + ".part")
    try:
        with part.open("wb") as file:
            _write_all(file, header, buckets)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    _sync_folder(folder)
    return path


def _write_all(file: BinaryIO, header: Header, buckets: Iterator[Bucket]) -> None:
    json = msgspec.json.encode(header, order="sorted")
    head = _PREFIX.pack(MAGIC, VERSION, len(json)) + json
    offset = len(head) + BUCKETS * _ENTRY.size + _CRC.size
    file.seek(offset)
    for bucket in buckets:
        bucket["values"] = narrowed(bucket["values"], header.config.storage)
        data = b"".join(bucket[name].tobytes() for name, _, _ in _PARTS)
        counts = (len(bucket["ids"]), len(bucket["counter_ids"]), len(bucket["tombstone_ids"]))
        head += _ENTRY.pack(offset, *counts, zlib.crc32(data))
        file.write(data)
        offset += len(data)
    file.seek(0)
    file.write(head + _CRC.pack(zlib.crc32(head)))


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class TableFile:
    """A table file open for reading: the header and directory at once, buckets as they are asked for.

    Raises ConfigError where there is no such file, VersionError for a version this build does not read, and
    CorruptError, naming file and place, for bytes that fail their check or that no table can have. Use it as a context
    manager.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.path = Path(folder) / FILE_NAME
        try:
            self._file = self.path.open("rb")
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise ConfigError(f"{folder} holds no saved table: there is no {FILE_NAME} in it") from None
        try:
            self.header, self.directory = self._read_head()
        except BaseException:
            self.close()
            raise

    def bucket(self, number: int) -> Bucket:
        """The arrays of one bucket: ``ids`` (n,) ascending, ``values`` (n * dim,) float32, and the rest.

        Raises CorruptError for bytes that fail their checksum, and for arrays that no table can have.
        """
        entry, size = self.directory[number], self._size(self.directory[number])
        self._file.seek(entry.offset)
        data = self._file.read(size)
        if len(data) != size or zlib.crc32(data) != entry.crc:
            self._corrupt(f"bucket {number} (offset {entry.offset}, {size} bytes) fails its checksum")
        bucket, at = {}, 0
        for name, dtype, count in self._parts(entry):
            bucket[name] = np.frombuffer(data, dtype, count, at)
            at += bucket[name].nbytes
        for fault in bucket_faults(number, bucket, self.header.sequence):
            self._corrupt(f"bucket {number} (offset {entry.offset}, {size} bytes): {fault}")
        bucket["values"] = widened(bucket["values"], self.header.config.storage)
        return bucket

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> TableFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read_head(self) -> tuple[Header, list[Entry]]:
        size = os.fstat(self._file.fileno()).st_size
        prefix = self._exactly(_PREFIX.size, "the prefix")
        magic, version, json_bytes = _PREFIX.unpack(prefix)
        if magic != MAGIC:
            self._corrupt(f"offset 0: the magic is {magic!r}, a table file starts with {MAGIC!r}")
        if not 1 <= version <= VERSION:
            raise VersionError(f"{self.path}: format version {version}, this build reads versions 1 to {VERSION}")
        if json_bytes > size:
            self._corrupt(f"offset 12: a header of {json_bytes} bytes cannot be in a file of {size}")
        rest = self._exactly(json_bytes + BUCKETS * _ENTRY.size, "the header")
        (crc,) = _CRC.unpack(self._exactly(_CRC.size, "the header's checksum"))
        if crc != zlib.crc32(prefix + rest):
            self._corrupt("the header fails its checksum")
        directory = [Entry(*fields) for fields in _ENTRY.iter_unpack(rest[json_bytes:])]
        header = self._header(rest[:json_bytes])
        self._check_layout(header, directory, self._file.tell(), size)
        return header, directory

    def _header(self, json: bytes) -> Header:
        try:
            header = msgspec.json.decode(json, type=Header)
            config = checked(header.config)
        except msgspec.ValidationError as error:
            raise VersionError(f"{self.path}: the header has what this build does not know: {error}") from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            self._corrupt(f"the header, from offset {_PREFIX.size} on, is no JSON: {error}")
        except ConfigError as error:
            self._corrupt(f"the header's config cannot be: {error}")
        for name, value, lowest, highest in _limits(header):
            if not lowest <= value <= highest:
                self._corrupt(f"the header's {name} is {value}; allowed: {lowest} to {highest}")
        return msgspec.structs.replace(header, config=config)

    def _check_layout(self, header: Header, directory: list[Entry], offset: int, size: int) -> None:
        self.header = header
        for number, entry in enumerate(directory):
            if entry.offset != offset:
                self._corrupt(f"bucket {number} is said to be at offset {entry.offset}, it follows at {offset}")
            offset += self._size(entry)
        if offset != size:
            self._corrupt(f"the file has {size} bytes, its directory says {offset}")

    def _parts(self, entry: Entry) -> Iterator[tuple[str, str, int]]:
        width = {"values": self.header.config.dim, "state": self.header.state_floats}
        for name, dtype, counted in _PARTS:
            stored = STORED[self.header.config.storage] if name == "values" else dtype
            yield name, stored, getattr(entry, counted) * width.get(name, 1)

    def _size(self, entry: Entry) -> int:
        return sum(count * np.dtype(dtype).itemsize for _, dtype, count in self._parts(entry))

    def _exactly(self, size: int, what: str) -> bytes:
        data = self._file.read(size)
        if len(data) != size:
            self._corrupt(f"the file ends inside {what}")
        return data

    def _corrupt(self, what: str) -> NoReturn:
        raise CorruptError(f"{self.path}: {what}; restore the file from another copy, or use an older snapshot")


def _limits(header: Header) -> Iterator[tuple[str, int, int, int]]:
    """Each count of a table with the lowest and the highest that it can have."""
    yield "sequence", header.sequence, 1, _UINT32
    yield "floor", header.floor, 0, header.sequence - 1
    yield "clock_ms", header.clock_ms, WATERMARK_START, WATERMARK_END - 1
    yield "sweep_cursor", header.sweep_cursor, 0, BUCKETS - 1
    yield "steps", header.steps, 0, _UINT64
    yield "state_floats", header.state_floats, 0, _UINT32
    for name, count in header.statistics.items():
        yield f"statistics.{name}", count, 0, _UINT64
