"""The embedded event log: durable, offset-addressed, several readers beside one writer at a time, on LMDB.

What `EventLog.append` takes is one value a partition, under the key (partition, base offset): a batch costs one key, a
reader finds any offset with one look-up, and old batches are dropped by key. LMDB commits all of an append or none of
it, before `append` returns, and needs no recovery. Layout (integers big-endian, so that keys sort; `docs/formats.md`):

    key  "m"                        value  MessagePack {version, partitions}
    key  "p" partition:u32          value  crc32:u32 end:u64 bytes:u64
    key  "b" partition:u32 base:u64 value  crc32:u32 version:u8 partition:u32 base:u64 count:u32 ingestion_ms:i64 body

``body`` is a MessagePack list of [key, value, event_time_ms]; a crc32 covers everything behind it. A batch repeats its
key, so a value in the wrong place is found out as well.
"""

from __future__ import annotations

import struct
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import xxhash

from monolith.errors import ConfigError, CorruptError, DataLossError, VersionError
from monolith.events import Record
from monolith.streaming.log_environment import FIRST_MAP_BYTES, acquire
from monolith.streaming.source import Outgoing

LOG_VERSION = 1

_META_KEY = b"m"
_CRC = struct.Struct(">I")
_END = struct.Struct(">IQQ")
_HEAD = struct.Struct(">IBIQIq")
_BATCH_KEY = struct.Struct(">cIQ")

_encoder = msgspec.msgpack.Encoder()
_body_decoder = msgspec.msgpack.Decoder(list[tuple[bytes | None, bytes | None, int]])


class _Meta(msgspec.Struct):
    version: int
    partitions: int


@dataclass(frozen=True, slots=True)
class Extent:
    """What a partition holds: offsets ``begin`` up to, without, ``end``."""

    begin: int
    end: int
    bytes: int


def partition_of(key: bytes | None, value: bytes | None, partitions: int) -> int:
    """Where a record goes: by the hash of its key, or of its value where it has none."""
    return xxhash.xxh3_64_intdigest(key if key is not None else value or b"") % partitions


def log_exists(folder: Path) -> bool:
    """Whether a producer has created a log in ``folder``."""
    return (folder / "data.mdb").exists() and (folder / "lock.mdb").exists()


class EventLog:
    """A log in a folder. Any thread and any number of processes may hold one; they append one at a time."""

    def __init__(
        self,
        folder: Path,
        *,
        create: bool = False,
        partitions: int | None = None,
        sync: bool | None = None,
        map_bytes: int = FIRST_MAP_BYTES,
    ) -> None:
        """Open ``folder``, or create it with ``partitions`` (default 1) partitions.

        Raises ConfigError where there is no log and ``create`` is False, and where the log has another number of
        partitions; VersionError for a format of another version.
        """
        self.folder = folder
        if create:
            folder.mkdir(parents=True, exist_ok=True)
        elif not log_exists(folder):
            raise _missing(folder)
        self._environment = acquire(folder, sync=sync, map_bytes=map_bytes)
        self._open = True
        try:
            self.partitions = self._check_meta(create=create, partitions=partitions)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the files. Twice is fine."""
        if self._open:
            self._open = False
            self._environment.release()

    def _check_meta(self, *, create: bool, partitions: int | None) -> int:
        def found(txn: Any) -> bytes | None:
            value: bytes | None = txn.get(_META_KEY)
            return value

        def made(txn: Any) -> bytes:
            value = found(txn)  # another process may have been first
            if value is None:
                value = _encoder.encode(_Meta(LOG_VERSION, partitions or 1))
                txn.put(_META_KEY, value)
            return value

        value = self._environment.read(found)
        if value is None and create:
            value = self._environment.write(made)
        if value is None:
            raise _missing(self.folder)
        return self._checked_meta(value, partitions)

    def _checked_meta(self, value: bytes, partitions: int | None) -> int:
        try:
            meta = msgspec.msgpack.decode(value, type=_Meta)
        except msgspec.DecodeError as error:
            raise CorruptError(f"the log {self.folder} has a damaged head: {error}; restore its files") from None
        if meta.version != LOG_VERSION:
            raise VersionError(f"the log {self.folder} is of version {meta.version}, this build reads {LOG_VERSION}")
        if partitions not in (None, meta.partitions):
            raise ConfigError(
                f"the log {self.folder} has {meta.partitions} partitions, its URL says {partitions}: "
                f"leave partitions out, or name another folder"
            )
        return meta.partitions

    def append(self, records: Sequence[Outgoing], *, ingestion_ms: int | None = None) -> dict[int, int]:
        """Append (key, value, event time in ms) records and return the new ends of the partitions that grew.

        All of them are durable on return; after any error none of them is there. ``ingestion_ms`` stamps them (None:
        now). Raises UnavailableError for a full disk.
        """
        stamp = time.time_ns() // 1_000_000 if ingestion_ms is None else ingestion_ms
        split: dict[int, list[Outgoing]] = {}
        for record in records:
            split.setdefault(partition_of(record[0], record[1], self.partitions), []).append(record)
        bodies = {partition: _encoder.encode(part) for partition, part in sorted(split.items())}
        if not bodies:
            return {}

        def put(txn: Any) -> dict[int, int]:
            return {p: self._put_batch(txn, p, len(split[p]), stamp, body) for p, body in bodies.items()}

        return self._environment.write(put)

    def _put_batch(self, txn: Any, partition: int, count: int, stamp: int, body: bytes) -> int:
        end, size = self._end(txn, partition)
        value = _seal(_HEAD.pack(0, LOG_VERSION, partition, end, count, stamp) + body)
        txn.put(_batch_key(partition, end), value)
        txn.put(_end_key(partition), _seal(_END.pack(0, end + count, size + len(value))))
        return end + count

    def extents(self) -> dict[int, Extent]:
        """What every partition holds."""
        return self._environment.read(lambda txn: {p: self._extent(txn, p) for p in range(self.partitions)})

    def _extent(self, txn: Any, partition: int) -> Extent:
        end, size = self._end(txn, partition)
        oldest = self._oldest(txn, partition)
        return Extent(end if oldest is None else oldest[0], end, size)

    def _end(self, txn: Any, partition: int) -> tuple[int, int]:
        value = txn.get(_end_key(partition))
        if value is None:
            return 0, 0
        if len(value) != _END.size or not _sealed(value):
            raise CorruptError(f"the log {self.folder}, partition {partition}: its end fails its check")
        _, end, size = _END.unpack(value)
        return end, size

    def _oldest(self, txn: Any, partition: int) -> tuple[int, bytes] | None:
        """(base offset, value) of the partition's first batch."""
        cursor = txn.cursor()
        if not cursor.set_range(_batch_key(partition, 0)):
            return None
        return self._batch_at(cursor, partition)

    def _batch_at(self, cursor: Any, partition: int) -> tuple[int, bytes] | None:
        """The batch under ``cursor`` if it is one of ``partition``."""
        key, value = cursor.item()
        if len(key) != _BATCH_KEY.size or not key.startswith(_partition_prefix(partition)):
            return None
        return _BATCH_KEY.unpack(key)[2], value

    def read(self, partition: int, offset: int) -> list[Record]:
        """The records from ``offset`` to the end of its batch; none at the partition's end.

        Raises DataLossError for an offset that retention took, or beyond the end; CorruptError, naming partition and
        offset, for a batch that fails its check.
        """
        return self._environment.read(lambda txn: self._read(txn, partition, offset))

    def _read(self, txn: Any, partition: int, offset: int) -> list[Record]:
        end, _ = self._end(txn, partition)
        if offset == end:
            return []
        cursor = txn.cursor()
        if not cursor.set_range(_batch_key(partition, offset)) or cursor.key() != _batch_key(partition, offset):
            cursor.prev()
        found = self._batch_at(cursor, partition)
        records = [] if found is None else self._records(partition, *found)
        if not records or not records[0].offset <= offset <= records[-1].offset:
            begin = self._extent(txn, partition).begin
            if begin <= offset < end:
                raise CorruptError(
                    f"the log {self.folder}, partition {partition}: the batch of offset {offset} is missing"
                )
            raise DataLossError(
                f"the log {self.folder}, partition {partition}: offset {offset} is gone, it holds {begin} to {end}; "
                f"on_data_loss: skip goes on at {begin}"
            )
        return records[offset - records[0].offset :]

    def _records(self, partition: int, base: int, value: bytes) -> list[Record]:
        count, stamp, body = self._checked_batch(partition, base, value)
        try:
            rows = _body_decoder.decode(body)
        except msgspec.DecodeError:
            rows = []
        if len(rows) != count:
            raise self._damaged(partition, base, "its count does not match its records")
        return [
            Record(key, data, event_time_ms, stamp, partition, base + i)
            for i, (key, data, event_time_ms) in enumerate(rows)
        ]

    def _checked_batch(self, partition: int, base: int, value: bytes) -> tuple[int, int, bytes]:
        """(count, ingestion stamp, body) of a batch that passes its checks."""
        if len(value) < _HEAD.size or not _sealed(value):
            raise self._damaged(partition, base, "its checksum does not match")
        _, version, its_partition, its_base, count, stamp = _HEAD.unpack_from(value)
        if version != LOG_VERSION:
            raise VersionError(
                f"the log {self.folder}, partition {partition}, offset {base}: the batch is of version {version}, "
                f"this build reads {LOG_VERSION}"
            )
        if (its_partition, its_base) != (partition, base):
            raise self._damaged(partition, base, f"it is that of partition {its_partition}, offset {its_base}")
        return count, stamp, value[_HEAD.size :]

    def _damaged(self, partition: int, base: int, why: str) -> CorruptError:
        return CorruptError(
            f"the log {self.folder}, partition {partition}, batch at offset {base} is damaged: {why}; "
            f"restore its files, or seek behind the batch"
        )

    def apply_retention(
        self, *, max_age_s: float | None = None, max_bytes: int | None = None, now_ms: int | None = None
    ) -> int:
        """Drop whole batches, oldest taken-in first, that are older than ``max_age_s`` or above ``max_bytes`` in all.

        Returns how many records went. Their pages are used again; the file does not shrink.
        """
        now = time.time_ns() // 1_000_000 if now_ms is None else now_ms
        oldest_ms = None if max_age_s is None else now - round(max_age_s * 1000)

        def too_old(stamp: int, total: int) -> bool:
            return (oldest_ms is not None and stamp < oldest_ms) or (max_bytes is not None and total > max_bytes)

        return self._environment.write(lambda txn: self._drop(txn, too_old))

    def _drop(self, txn: Any, too_old: Callable[[int, int], bool]) -> int:
        dropped = 0
        total = sum(self._end(txn, p)[1] for p in range(self.partitions))
        while heads := [self._head(p, *o) for p in range(self.partitions) if (o := self._oldest(txn, p))]:
            stamp, partition, base, count, size = min(heads)
            if not too_old(stamp, total):
                break
            end, held = self._end(txn, partition)
            txn.delete(_batch_key(partition, base))
            txn.put(_end_key(partition), _seal(_END.pack(0, end, held - size)))
            total -= size
            dropped += count
        return dropped

    def _head(self, partition: int, base: int, value: bytes) -> tuple[int, int, int, int, int]:
        count, stamp, _ = self._checked_batch(partition, base, value)
        return stamp, partition, base, count, len(value)


def _batch_key(partition: int, base: int) -> bytes:
    return _BATCH_KEY.pack(b"b", partition, base)


def _partition_prefix(partition: int) -> bytes:
    return _BATCH_KEY.pack(b"b", partition, 0)[:5]


def _end_key(partition: int) -> bytes:
    return b"p" + partition.to_bytes(4, "big")


def _seal(unsealed: bytes) -> bytes:
    """``unsealed`` with the crc32 of all that follows in its first four bytes."""
    return _CRC.pack(zlib.crc32(unsealed[_CRC.size :])) + unsealed[_CRC.size :]


def _sealed(value: bytes) -> bool:
    return bool(_CRC.unpack_from(value)[0] == zlib.crc32(value[_CRC.size :]))


def _missing(folder: Path) -> ConfigError:
    return ConfigError(
        f"there is no log in {folder}: the first producer creates it; check the path, or let the job wait for it "
        f"(input.follow: true)"
    )
