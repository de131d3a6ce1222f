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
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple, NoReturn

import msgspec
import numpy as np
import numpy.typing as npt

from monolith.config.table import AbsentZeros, TableConfig
from monolith.disk import sync_folder
from monolith.errors import ConfigError, CorruptError, VersionError
from monolith.events import WATERMARK_END, WATERMARK_START
from monolith.tables.bucket_checks import bucket_faults
from monolith.tables.optimizer_options import with_steps
from monolith.tables.options import checked
from monolith.tables.policy_options import keeps_age, keeps_uses, policy_names
from monolith.tables.storage import STORED, narrowed, widened

FILE_NAME = "table.bin"
MAGIC = b"MONOTABL"
VERSION = 3  # what is written; older ones are read
BUCKETS = 1024
UPPERS_A_BUCKET = 2**32 // BUCKETS  # upper halves of the hashes of its ids

Bucket = dict[str, npt.NDArray[Any]]

_PREFIX = struct.Struct("<8sII")  # magic, version, bytes of the JSON header
_CRC = struct.Struct("<I")
_UINT32, _UINT64 = 2**32 - 1, 2**64 - 1


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One array of a bucket: ``width`` elements for each member of its group."""

    name: str
    type: str  # as numpy writes it: <i8, <u4, <f4; <u2 for the bits of 16-bit values
    group: str
    width: int = 1


_GROUPS = ["rows", "counters", "tombstones"]  # members of each are counted in the directory; with a tail, it follows
_ALWAYS = (  # in file order, eight-byte ones first; `values` and `state` follow
    Part("ids", "<i8", "rows"),
    Part("last_seen_ms", "<i8", "rows"),
    Part("counter_ids", "<i8", "counters"),
    Part("counter_last_ms", "<i8", "counters"),
    Part("tombstone_ids", "<i8", "tombstones"),
    Part("marks", "<u4", "rows"),
    Part("counts", "<u4", "counters"),
    Part("tombstone_marks", "<u4", "tombstones"),
)
_SOMETIMES = (  # where the table has them; else a bucket that was read has empty arrays
    Part("admitted_ms", "<i8", "rows"),
    Part("uses", "<u4", "rows"),
    Part("policies", "<u4", "rows"),
    Part("counter_policies", "<u4", "counters"),
)
_TAIL = ("tail_marks", "tail_values", "tail_state")
_KNOWN = {"values", "state", *_TAIL, *(part.name for part in (*_ALWAYS, *_SOMETIMES))}


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All of a table's state that is not in a bucket."""

    config: TableConfig
    sequence: int  # the open one
    floor: int  # deltas can start from here on
    clock_ms: int
    open_forgotten: bool = False  # those that went in the open sequence are not all known either: the next cut's floor
    sweep_cursor: int  # the bucket in which the next sweep starts
    sweep_offset: int = 0  # and how many upper halves of hashes from the bucket's first
    steps: int = 0  # apply_gradients calls since the table was made; version 1 did not count them
    eviction_cursor: int = 0  # the upper half of the hash at which the next sample starts
    state_floats: int  # words of optimizer state a row
    statistics: dict[str, int]
    groups: list[str] = []  # in the order of the directory's counts; empty in versions 1 and 2, as are the parts
    parts: list[Part] = []  # in file order

    def laid_out(self) -> Header:
        """The header as this build writes it: with groups and parts."""
        return msgspec.structs.replace(
            self, groups=groups_of(self.config), parts=parts_of(self.config, self.state_floats)
        )


_decode_header = msgspec.json.Decoder(Header).decode  # prepared here: tables are opened in threads


def parts_of(config: TableConfig, state_floats: int) -> list[Part]:
    """What a bucket of such a table consists of."""
    has = {"admitted_ms": keeps_age(config), "uses": keeps_uses(config)}
    some = [part for part in _SOMETIMES if has.get(part.name, bool(config.per_feature))]
    values = Part("values", STORED[config.storage], "rows", config.dim)
    parts = [*_ALWAYS, values, Part("state", "<f4", "rows", state_floats), *some]
    if config.tail_rows:
        widths = (("<u4", 1), (STORED[config.storage], config.dim), ("<f4", state_floats))
        parts += [Part(name, type_, "tail", width) for name, (type_, width) in zip(_TAIL, widths, strict=True)]
    return parts


def groups_of(config: TableConfig) -> list[str]:
    """What a bucket of such a table has several of."""
    return [*_GROUPS, "tail"] if config.tail_rows else _GROUPS


def tail_members(rows: int, bucket: int) -> int:
    """How many of a tail's rows are in a bucket: those numbered bucket, bucket + 1,024, ..."""
    return max(0, -(-(rows - bucket) // BUCKETS))


def no_tail() -> Bucket:
    """The arrays of a bucket without shared rows."""
    return {name: np.zeros(0, "<u4" if name == "tail_marks" else "<f4") for name in _TAIL}


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
    sync_folder(folder)
    return path


def _write_all(file: BinaryIO, header: Header, buckets: Iterator[Bucket]) -> None:
    header = header.laid_out()
    entry = _entry(len(header.groups))
    json = _json(header)
    head = _PREFIX.pack(MAGIC, VERSION, len(json)) + json
    head += _CRC.pack(zlib.crc32(head))
    directory, offset = b"", len(head) + BUCKETS * entry.size + _CRC.size
    file.seek(offset)
    for bucket in buckets:
        for name in ("values", "tail_values"):
            bucket[name] = narrowed(bucket[name], header.config.storage)
        data = b"".join(bucket[part.name].tobytes() for part in header.parts)
        members = [len(bucket[name]) for name in ("ids", "counter_ids", "tombstone_ids", "tail_marks")]
        directory += entry.pack(offset, *members[: len(header.groups)], zlib.crc32(data))
        file.write(data)
        offset += len(data)
    file.seek(0)
    file.write(head + directory + _CRC.pack(zlib.crc32(directory)))


def _json(header: Header) -> bytes:
    """The header, sorted; what came to the config later and is not used is left out, for builds that do not know it."""
    fields = msgspec.to_builtins(header)
    config = fields["config"]
    for later in ("open_forgotten", "sweep_offset"):
        if not fields[later]:
            del fields[later]
    for of_other_kinds in ("kind", "rows", "remainders", "combine"):  # of tables that are made of such tables
        del config[of_other_kinds]
    del config["memory"]  # where the rows lay while they were trained says nothing about them
    for optimizer in (config["optimizer"], *(part["optimizer"] for part in config["slices"])):
        if optimizer["clip_global_norm"] is None:
            del optimizer["clip_global_norm"]
        if optimizer.get("steps") == "row":
            del optimizer["steps"]
    if isinstance(header.config.absent, AbsentZeros):
        del config["absent"]
    return msgspec.json.encode(fields, order="sorted")


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
        bucket, at = {part.name: np.zeros(0, part.type) for part in _SOMETIMES} | no_tail(), 0
        for part in self.header.parts:
            bucket[part.name] = np.frombuffer(data, part.type, entry.counts[part.group] * part.width, at)
            at += bucket[part.name].nbytes
        policies = len(policy_names(self.header.config))
        for fault in bucket_faults(number, bucket, self.header.sequence, policies):
            self._corrupt(f"bucket {number} (offset {entry.offset}, {size} bytes): {fault}")
        for name in ("values", "tail_values"):
            bucket[name] = widened(bucket[name], self.header.config.storage)
        return bucket

    def buckets(self) -> Iterator[Bucket]:
        """All buckets in order. The next one is read and checked, by another thread, while one is worked on."""
        with ThreadPoolExecutor(1) as reader:
            following = reader.submit(self.bucket, 0)
            for number in range(1, BUCKETS + 1):
                bucket = following.result()
                if number < BUCKETS:
                    following = reader.submit(self.bucket, number)
                yield bucket

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
        json = self._exactly(json_bytes, "the header")
        if version >= 3:
            self._check_crc(prefix + json, "the header")
            header = self._header(json)
            entry = _entry(len(header.groups))
            table = self._exactly(BUCKETS * entry.size, "the directory")
            self._check_crc(table, "the directory")
        else:
            entry = _entry(len(_GROUPS))
            table = self._exactly(BUCKETS * entry.size, "the directory")
            self._check_crc(prefix + json + table, "the header")
            header = self._header(json).laid_out()
        directory = [
            Entry(offset, dict(zip(header.groups, counts, strict=True)), crc)
            for offset, *counts, crc in entry.iter_unpack(table)
        ]
        self._check_layout(header, directory, self._file.tell(), size)
        return header, directory

    def _header(self, json: bytes) -> Header:
        try:
            header = _decode_header(json)
            config = with_steps(checked(header.config), "row")  # the only count that there was
        except msgspec.ValidationError as error:
            raise VersionError(f"{self.path}: the header has what this build does not know: {error}") from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            self._corrupt(f"the header, from offset {_PREFIX.size} on, is no JSON: {error}")
        except ConfigError as error:
            self._corrupt(f"the header's config cannot be: {error}")
        if unknown := [part.name for part in header.parts if part.name not in _KNOWN]:
            raise VersionError(f"{self.path}: its buckets have {unknown}, which this build does not know")
        for name, value, lowest, highest in _limits(header):
            if not lowest <= value <= highest:
                self._corrupt(f"the header's {name} is {value}; allowed: {lowest} to {highest}")
        return msgspec.structs.replace(header, config=config)

    def _check_crc(self, data: bytes, what: str) -> None:
        (crc,) = _CRC.unpack(self._exactly(_CRC.size, f"the checksum of {what}"))
        if crc != zlib.crc32(data):
            self._corrupt(f"{what} fails its checksum")

    def _check_layout(self, header: Header, directory: list[Entry], offset: int, size: int) -> None:
        self.header = header
        if (header.groups, header.parts) != (groups_of(header.config), parts_of(header.config, header.state_floats)):
            self._corrupt("the header's groups and parts are not those of a table of its config")
        for number, entry in enumerate(directory):
            if entry.offset != offset:
                self._corrupt(f"bucket {number} is said to be at offset {entry.offset}, it follows at {offset}")
            shared, expected = entry.counts.get("tail", 0), tail_members(header.config.tail_rows, number)
            if shared != expected:
                self._corrupt(f"bucket {number} has {shared} rows of the tail, not {expected}")
            offset += self._size(entry)
        if offset != size:
            self._corrupt(f"the file has {size} bytes, its directory says {offset}")

    def _size(self, entry: Entry) -> int:
        return sum(entry.counts[part.group] * part.width * np.dtype(part.type).itemsize for part in self.header.parts)

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
    yield "sweep_offset", header.sweep_offset, 0, UPPERS_A_BUCKET - 1
    yield "eviction_cursor", header.eviction_cursor, 0, 2**32 - 1
    yield "steps", header.steps, 0, _UINT64
    yield "state_floats", header.state_floats, 0, _UINT32
    for name, count in header.statistics.items():
        yield f"statistics.{name}", count, 0, _UINT64
