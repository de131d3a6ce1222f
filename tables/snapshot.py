"""One table as one file, or a part of it, by bucket, each under its own checksum; ``docs/formats.md`` describes it.

The bytes are a function of the table's logical state: buckets in order, ids ascending within each, so two tables in the
same state give the same file whatever their history. A reader trusts nothing before its checksum holds, and can fetch
single buckets, which is how a number of ranks reads what another number wrote.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple, NoReturn, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from monolith.config.table import TableConfig
from monolith.disk import sync_folder
from monolith.errors import ConfigError, CorruptError, InputError, VersionError
from monolith.tables.bucket_checks import bucket_faults
from monolith.tables.buckets import BUCKETS, Buckets
from monolith.tables.header import (
    KNOWN,
    SOMETIMES,
    TAIL,
    Header,
    arrays_of,
    decode_former_header,
    decode_header,
    encoded,
    groups_of,
    limits,
    row_kind,
    sometimes,
)
from monolith.tables.settings import config_of
from monolith.tables.storage import narrowed, widened

FILE_NAME = "table.bin"
MAGIC = b"MONOTABL"
VERSION = 4  # what is written; older ones are read

Bucket = dict[str, npt.NDArray[Any]]
T = TypeVar("T")

_PREFIX = struct.Struct("<8sII")  # magic, version, bytes of the JSON header
_CRC = struct.Struct("<I")


def tail_members(rows: int, bucket: int) -> int:
    """How many of a tail's rows are in a bucket: those numbered bucket, bucket + 1,024, ..."""
    return max(0, -(-(rows - bucket) // BUCKETS))


def no_tail() -> Bucket:
    """The arrays of a bucket without shared rows."""
    return {name: np.zeros(0, "<u4" if name == "tail_marks" else "<f4") for name in TAIL}


class Entry(NamedTuple):
    """One bucket in the directory."""

    offset: int  # from the start of the file, in bytes
    counts: dict[str, int]  # members of each group
    crc: int  # CRC-32 of its bytes, as zlib's

    @property
    def rows(self) -> int:
        """How many rows the bucket has."""
        return self.counts["rows"]


def _entry(groups: int) -> struct.Struct:
    """Of the directory: offset, one count a group, CRC-32."""
    return struct.Struct(f"<Q{groups}II")


def write(folder: Path, header: Header, buckets: Iterator[Bucket]) -> Path:
    """Write ``folder/table.bin`` and fsync it. Raises OSError, and then leaves what was there before as it was.

    ``buckets`` are those that the header names, in order.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path, unfinished = folder / FILE_NAME, folder / (FILE_NAME + ".part")
    try:
        with unfinished.open("wb") as file:
            _write_all(file, header, buckets)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    sync_folder(folder)
    return path


def to_bytes(header: Header, buckets: Iterator[Bucket]) -> bytes:
    """The file that ``write`` would write, for who keeps it elsewhere."""
    file = BytesIO()
    _write_all(file, header, buckets)
    return file.getvalue()


def _write_all(file: BinaryIO, header: Header, buckets: Iterator[Bucket]) -> None:
    entry = _entry(len(header.groups))
    json = encoded(header)
    head = _PREFIX.pack(MAGIC, VERSION, len(json)) + json
    head += _CRC.pack(zlib.crc32(head))
    directory, offset = b"", len(head) + len(header.held()) * entry.size + _CRC.size
    file.seek(offset)
    for bucket in buckets:
        for name in ("values", "tail_values"):
            bucket[name] = narrowed(bucket[name], header.rows.storage)
        data = b"".join(bucket[array.name].tobytes() for array in header.arrays)
        members = [len(bucket[name]) for name in ("ids", "counter_ids", "tombstone_ids", "tail_marks")]
        directory += entry.pack(offset, *members[: len(header.groups)], zlib.crc32(data))
        file.write(data)
        offset += len(data)
    file.seek(0)
    file.write(head + directory + _CRC.pack(zlib.crc32(directory)))


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

    @property
    def held(self) -> Buckets:
        """The buckets that the file has."""
        return self.header.held()

    @property
    def config(self) -> TableConfig:
        """The config by which the table was trained; ``memory`` is not saved.

        Raises VersionError where it has what this build does not know, CorruptError for what no table can have.
        """
        header = self.header
        config = self._configured(lambda: config_of(header.settings, header.defaulted), "header's settings")
        rows = row_kind(config, header.rows.state_floats)
        if (rows, arrays_of(rows, sometimes(config))) != (header.rows, header.arrays):
            self._corrupt("the header's settings are not those of a table of its rows and arrays")
        return config

    def bucket(self, number: int) -> Bucket:
        """The arrays of one bucket: ``ids`` (n,) ascending, ``values`` (n * dim,) float32, and the rest.

        Raises CorruptError for bytes that fail their checksum, and for arrays that no table can have, and InputError
        for a bucket that the file does not have.
        """
        if number not in self.directory:
            raise InputError(f"{self.path} has no bucket {number}; it has {self.held}")
        entry, size = self.directory[number], self._size(self.directory[number])
        self._file.seek(entry.offset)
        data = self._file.read(size)
        if len(data) != size or zlib.crc32(data) != entry.crc:
            self._corrupt(f"bucket {number} (offset {entry.offset}, {size} bytes) fails its checksum")
        bucket, at = {array.name: np.zeros(0, array.type) for array in SOMETIMES} | no_tail(), 0
        for array in self.header.arrays:
            bucket[array.name] = np.frombuffer(data, array.type, entry.counts[array.group] * array.width, at)
            at += bucket[array.name].nbytes
        policies = len(self.header.rows.policies)
        for fault in bucket_faults(number, bucket, self.header.sequence, policies):
            self._corrupt(f"bucket {number} (offset {entry.offset}, {size} bytes): {fault}")
        for name in ("values", "tail_values"):
            bucket[name] = widened(bucket[name], self.header.rows.storage)
        return bucket

    def buckets(self, numbers: Sequence[int]) -> Iterator[tuple[int, Bucket]]:
        """Those buckets in turn, by number. The next is read and checked, by another thread, while one is worked on."""
        with ThreadPoolExecutor(1) as reader:
            following = [reader.submit(self.bucket, number) for number in numbers[:1]]
            for place, number in enumerate(numbers):
                bucket = following.pop().result()
                following += [reader.submit(self.bucket, later) for later in numbers[place + 1 : place + 2]]
                yield number, bucket

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> TableFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read_head(self) -> tuple[Header, dict[int, Entry]]:
        size = os.fstat(self._file.fileno()).st_size
        prefix = self._exactly(_PREFIX.size, "the prefix")
        magic, version, json_bytes = _PREFIX.unpack(prefix)
        if magic != MAGIC:
            self._corrupt(f"offset 0: the magic is {magic!r}, a table file starts with {MAGIC!r}")
        if not 1 <= version <= VERSION:
            raise VersionError(f"{self.path}: format version {version}, this build reads versions 1 to {VERSION}")
        if json_bytes > size:
            self._corrupt(f"offset 12: a header of {json_bytes} bytes cannot be in a file of {size}")
        json = self._exactly(json_bytes, "the header")
        if version >= 3:
            self._check_crc(prefix + json, "the header")
            header = self._header(json, version)
            entry = _entry(len(header.groups))
            table = self._exactly(len(header.held()) * entry.size, "the directory")
            self._check_crc(table, "the directory")
        else:
            entry = _entry(3)
            table = self._exactly(BUCKETS * entry.size, "the directory")
            self._check_crc(prefix + json + table, "the header")
            header = self._header(json, version)
        entries = [
            Entry(offset, dict(zip(header.groups, counts, strict=True)), crc)
            for offset, *counts, crc in entry.iter_unpack(table)
        ]
        directory = dict(zip(header.held(), entries, strict=True))
        self._check_layout(header, directory, self._file.tell(), size)
        return header, directory

    def _header(self, json: bytes, version: int) -> Header:
        def decode() -> Header:
            return decode_header(json) if version >= 4 else decode_former_header(json).now()

        header = self._configured(decode, "header")
        if unknown := [array.name for array in header.arrays if array.name not in KNOWN]:
            raise VersionError(f"{self.path}: its buckets have {unknown}, which this build does not know")
        for name, value, lowest, highest in limits(header):
            if not lowest <= value <= highest:
                self._corrupt(f"the header's {name} is {value}; allowed: {lowest} to {highest}")
        self._check_held(header)
        some = {array.name for array in header.arrays}
        if (header.groups, header.arrays) != (groups_of(header.rows.tail_rows), arrays_of(header.rows, some)):
            self._corrupt("the header's groups and arrays are not those of a table of its rows")
        return header

    def _configured(self, decode: Callable[[], T], what: str) -> T:
        try:
            return decode()
        except msgspec.ValidationError as error:
            raise VersionError(f"{self.path}: the {what} has what this build does not know: {error}") from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            self._corrupt(f"the {what}, from offset {_PREFIX.size} on, is no JSON: {error}")
        except ConfigError as error:
            self._corrupt(f"the header's config cannot be: {error}")

    def _check_held(self, header: Header) -> None:
        try:
            held = header.held()
        except InputError as error:
            self._corrupt(f"the header's buckets cannot be: {error}")
        if not held.ranges or [*held.ranges] != header.buckets:
            self._corrupt("the header's buckets are no ranges that ascend and lie apart")

    def _check_crc(self, data: bytes, what: str) -> None:
        (crc,) = _CRC.unpack(self._exactly(_CRC.size, f"the checksum of {what}"))
        if crc != zlib.crc32(data):
            self._corrupt(f"{what} fails its checksum")

    def _check_layout(self, header: Header, directory: dict[int, Entry], offset: int, size: int) -> None:
        self.header = header
        for number, entry in directory.items():
            if entry.offset != offset:
                self._corrupt(f"bucket {number} is said to be at offset {entry.offset}, it follows at {offset}")
            shared, expected = entry.counts.get("tail", 0), tail_members(header.rows.tail_rows, number)
            if shared != expected:
                self._corrupt(f"bucket {number} has {shared} rows of the tail, not {expected}")
            offset += self._size(entry)
        if offset != size:
            self._corrupt(f"the file has {size} bytes, its directory says {offset}")

    def _size(self, entry: Entry) -> int:
        arrays = self.header.arrays
        return sum(entry.counts[array.group] * array.width * np.dtype(array.type).itemsize for array in arrays)

    def _exactly(self, size: int, what: str) -> bytes:
        data = self._file.read(size)
        if len(data) != size:
            self._corrupt(f"the file ends inside {what}")
        return data

    def _corrupt(self, what: str) -> NoReturn:
        raise CorruptError(f"{self.path}: {what}; restore the file from another copy, or use an older snapshot")
