"""The embedded event log: durable, offset-addressed, several readers beside one writer at a time, on LMDB.

What `EventLog.append` takes is one value a partition, under the key (partition, base offset): a batch costs one key, a
reader finds any offset with one look-up, and old batches are dropped by key. LMDB commits all of an append or none of
it, before `append` returns, and needs no recovery. Keys (integers big-endian, so that they sort; values: `log_batch`):

    "m"                         MessagePack {version, partitions, id}
    "p" partition:u32           extent of the partition
    "b" partition:u32 base:u64  batch
"""

from __future__ import annotations

import secrets
import struct
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import msgspec
import xxhash

from monolith.disk import make_folder, remedy, sync_folder
from monolith.errors import ConfigError, CorruptError, DataLossError, UnavailableError, VersionError
from monolith.events import Record
from monolith.streaming.log_batch import (
    LOG_VERSION,
    BatchHead,
    Extent,
    copy_batch,
    pack_batch,
    unpack_batch,
    unpack_extent,
    unpack_head,
)
from monolith.streaming.log_environment import FIRST_MAP_BYTES, acquire
from monolith.streaming.record_block import RecordBlock
from monolith.streaming.source import Outgoing, check_outgoing

_META_KEY = b"m"
_MOST_META_BYTES = 64
_ID_BYTES = 8
_BATCH_KEY = struct.Struct(">cIQ")


class _Meta(msgspec.Struct):
    version: int
    partitions: int
    id: str = ""  # drawn when the log is made, so that one made anew is known; empty: by a build that drew none


def partition_of(key: bytes | None, value: bytes | None, partitions: int) -> int:
    """Where a record goes: by the hash of its key, or of its value where it has none."""
    return xxhash.xxh3_64_intdigest(key if key is not None else value or b"") % partitions


class NoLogError(ConfigError):
    """There is no log in a folder, or none yet: its producer may be about to create it."""


def log_exists(folder: Path) -> bool:
    """Whether a producer has created a log in ``folder``, or has begun to."""
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

        Raises NoLogError where there is no log and ``create`` is False, and ConfigError where the log has another
        number of partitions, or its folder cannot be made; VersionError for a format of another version.
        """
        self.folder = folder
        if create:
            _make(folder)
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
            value = txn.get(_META_KEY)
            if value is None and txn.stat()["entries"]:
                raise CorruptError(f"the log {self.folder} has records, but its head is gone; restore its files")
            return None if value is None else bytes(value[:_MOST_META_BYTES])

        def made(txn: Any) -> bytes:
            value = found(txn)  # another process may have been first
            if value is None:
                for partition in range(partitions or 1):
                    txn.put(_extent_key(partition), Extent(0, 0, 0).pack())
            named = _named(value, partitions or 1)
            txn.put(_META_KEY, named)
            return named

        value = self._environment.read(found)
        if create and value != _named(value, partitions or 1):
            value = self._environment.write(made)
        if value is None:
            raise _missing(self.folder)
        if create:
            self._keep_names()
        return self._checked_meta(value, partitions)

    def _keep_names(self) -> None:
        """Have LMDB's files keep their names over a power cut; LMDB syncs only their bytes."""
        try:
            sync_folder(self.folder)
        except OSError as error:
            raise UnavailableError(f"the log {self.folder} cannot be made durable: {error}; {remedy(error)}") from error

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
        self.id = meta.id
        return meta.partitions

    def is_current(self) -> bool:
        """Whether its files are still those in the folder: what was removed or replaced goes on to be read here."""
        return self._environment.is_current()

    def append(self, records: Sequence[Outgoing], *, ingestion_ms: int | None = None) -> dict[int, int]:
        """Append (key, value, event time in ms) records and return the new ends of the partitions that grew.

        All of them are durable on return; after any error none of them is there. ``ingestion_ms`` stamps them (None:
        now). Raises InputError for a record that cannot be written, UnavailableError for a full disk.
        """
        check_outgoing(f"the log {self.folder}", records)
        stamp = time.time_ns() // 1_000_000 if ingestion_ms is None else ingestion_ms
        split: dict[int, list[Outgoing]] = {}
        for record in records:
            split.setdefault(partition_of(record[0], record[1], self.partitions), []).append(record)
        if not split:
            return {}
        return self._environment.write(
            lambda txn: {p: self._put_batch(txn, p, rows, stamp) for p, rows in sorted(split.items())}
        )

    def _put_batch(self, txn: Any, partition: int, rows: list[Outgoing], stamp: int) -> int:
        extent = self._extent(txn, partition)
        value = pack_batch(BatchHead(partition, extent.end, len(rows), stamp), rows)
        end = extent.end + len(rows)
        txn.put(_batch_key(partition, extent.end), value)
        txn.put(_extent_key(partition), Extent(extent.begin, end, extent.size_bytes + len(value)).pack())
        return end

    def extents(self) -> dict[int, Extent]:
        """What every partition holds."""
        return self._environment.read(lambda txn: {p: self._extent(txn, p) for p in range(self.partitions)})

    def _extent(self, txn: Any, partition: int) -> Extent:
        try:
            return unpack_extent(txn.get(_extent_key(partition), b""))
        except ValueError as error:
            raise CorruptError(
                f"the log {self.folder}, partition {partition}: its extent is damaged: {error}; restore its files"
            ) from None

    def read(self, partition: int, offset: int) -> list[Record]:
        """The records of `read_block`, one by one; none at the partition's end."""
        block = self.read_block(partition, offset)
        return [] if block is None else block.records()

    def read_block(self, partition: int, offset: int) -> RecordBlock | None:
        """The records from ``offset`` to the end of its batch; None at the partition's end.

        Raises DataLossError for an offset that retention took, or beyond the end; CorruptError, naming partition and
        offset, for a batch that fails its check.
        """
        try:
            value = self._environment.read(lambda txn: self._batch_of(txn, partition, offset))
            if value is None:
                return None
            head, records = unpack_batch(value)
        except (ValueError, VersionError) as error:
            self._refuse(partition, offset, error)
        if head.partition != partition or not head.base <= offset < head.base + head.count:
            why = f"partition {head.partition}, offset {head.base} stands in its place"
            self._refuse(partition, offset, ValueError(why))
        return records.rows(offset - head.base, head.count)

    def _batch_of(self, txn: Any, partition: int, offset: int) -> bytes | None:
        """The batch that should hold ``offset``, its length checked; None at the end."""
        extent = self._extent(txn, partition)
        if offset == extent.end:
            return None
        if not extent.begin <= offset < extent.end:
            raise DataLossError(
                f"the log {self.folder}, partition {partition}: offset {offset} is gone, it holds {extent.begin} to "
                f"{extent.end}; on_data_loss: skip goes on at {extent.begin}"
            )
        cursor, key = txn.cursor(), _batch_key(partition, offset)
        if not cursor.set_range(key) or bytes(cursor.key()) != key:
            cursor.prev()
        return copy_batch(cursor.value())

    def _refuse(self, partition: int, offset: int, error: Exception) -> NoReturn:
        kind = VersionError if isinstance(error, VersionError) else CorruptError
        raise kind(
            f"the log {self.folder}, partition {partition}, batch of offset {offset} cannot be read: {error}; "
            f"restore its files"
        ) from None

    def apply_retention(
        self, *, max_age_s: float | None = None, max_bytes: int | None = None, now_ms: int | None = None
    ) -> int:
        """Drop whole batches, oldest taken-in first, that are older than ``max_age_s`` or above ``max_bytes`` in all.

        Returns how many records went. Their pages are used again; the file does not shrink.
        """
        now = time.time_ns() // 1_000_000 if now_ms is None else now_ms
        oldest_ms = None if max_age_s is None else now - round(max_age_s * 1000)

        def too_much(stamp: int, total: int) -> bool:
            return (oldest_ms is not None and stamp < oldest_ms) or (max_bytes is not None and total > max_bytes)

        return self._environment.write(lambda txn: self._drop(txn, too_much))

    def _drop(self, txn: Any, too_much: Callable[[int, int], bool]) -> int:
        extents = {p: self._extent(txn, p) for p in range(self.partitions)}
        dropped = 0
        while True:
            oldest = [self._first(txn, p, e.begin) for p, e in extents.items() if e.begin < e.end]
            total = sum(extent.size_bytes for extent in extents.values())
            head, size = min(oldest, key=lambda first: first[0].ingestion_ms, default=(None, 0))
            if head is None or not too_much(head.ingestion_ms, total):
                return dropped
            extent = extents[head.partition]
            left = Extent(head.base + head.count, extent.end, extent.size_bytes - size)
            txn.delete(_batch_key(head.partition, head.base))
            txn.put(_extent_key(head.partition), left.pack())
            extents[head.partition] = left
            dropped += head.count

    def _first(self, txn: Any, partition: int, begin: int) -> tuple[BatchHead, int]:
        try:
            value = copy_batch(txn.get(_batch_key(partition, begin), b""))
            return unpack_head(value), len(value)
        except (ValueError, VersionError) as error:
            self._refuse(partition, begin, error)


def _named(meta: bytes | None, partitions: int) -> bytes:
    """The head of a log as its producers leave it: with an id that no other log has. What is no head stays as it is."""
    if meta is None:
        return msgspec.msgpack.encode(_Meta(LOG_VERSION, partitions, secrets.token_hex(_ID_BYTES)))
    try:
        known = msgspec.msgpack.decode(meta, type=_Meta)
    except msgspec.DecodeError:
        return meta
    if known.id or known.version != LOG_VERSION:
        return meta
    return _named(None, known.partitions)


def _batch_key(partition: int, base: int) -> bytes:
    return _BATCH_KEY.pack(b"b", partition, base)


def _extent_key(partition: int) -> bytes:
    return b"p" + partition.to_bytes(4, "big")


def _make(folder: Path) -> None:
    try:
        make_folder(folder)
    except OSError as error:
        raise ConfigError(f"cannot make the folder of the log {folder}: {error}; {remedy(error)}") from error


def _missing(folder: Path) -> NoLogError:
    return NoLogError(
        f"there is no log in {folder}: the first producer creates it; check the path, or let the job wait for it "
        f"(input.follow: true)"
    )
