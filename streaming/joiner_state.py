"""What a snapshot keeps of the joiner: MessagePack around columns, versioned, canonical; see ``docs/formats.md``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import msgspec
import numpy as np

from monolith.errors import CorruptError, VersionError
from monolith.streaming import _joiner
from monolith.tables.batch import spans

JOINER_VERSION = 2  # 1 held features as MessagePack maps; `joiner_v1` reads it

Columns = tuple[bytes, bytes, bytes]  # numbers (int64), lengths of three texts each (uint32), the texts
Repack = Callable[[bytes, float], bytes]  # packed row, label that stands beside it -> packed row

PENDING_NUMBERS = 11  # of each pending record; docs/formats.md names them
LABEL, KIND, IGNORED = 7, 9, 10  # places among a pending record's numbers
PARTITION = {"pending": 2, "waiting": 1, "parked": 1}  # place among a member's numbers; its lower 32 bits
OPEN = 6  # place among the numbers of a key that waits; its lowest bit
_THREE_LENGTHS = 3 * 4  # bytes
SHOWN, ACTION, JOINED = 0, 1, 2


class JoinCounters(msgspec.Struct):
    """What became of the events since the run's first step."""

    positives: int = 0
    negatives: int = 0
    late: int = 0  # positives after their window, whatever the policy made of them
    sampled_out: int = 0  # negatives that negative sampling dropped
    passed: int = 0  # samples that came joined
    duplicate_features: int = 0
    duplicate_actions: int = 0
    unmatched_actions: int = 0  # no features within early_s
    ignored_actions: int = 0  # not one of positive_actions


def summed(counters: Sequence[JoinCounters]) -> JoinCounters:
    """Of several joiners together."""
    return JoinCounters(*map(sum, zip(*map(msgspec.structs.astuple, counters), strict=True)))


class JoinerState(msgspec.Struct, array_like=True, kw_only=True):
    """Everything that waits and every counter."""

    version: int = JOINER_VERSION
    newest_ingestion_ms: int
    counters: JoinCounters
    pending: Columns
    waiting: Columns
    parked: Columns

    def give(self, native: _joiner.Joiner) -> None:
        """Put all of it into an empty joiner. Raises ValueError where columns do not fit together."""
        native.put_pending(*self.pending)
        native.put_waiting(*self.waiting)
        native.put_parked(*self.parked)
        native.counters = list(msgspec.structs.astuple(self.counters))
        native.newest_ingestion_ms = self.newest_ingestion_ms

    def unlabelled(self) -> int:
        """How many records wait for their time, their label or their features, so that no sample was made of them."""
        keys = len(self.waiting[1]) // _THREE_LENGTHS
        is_open = np.frombuffer(self.waiting[0], np.int64).reshape(keys, -1)[:, OPEN] & 1 if keys else np.zeros(0)
        return len(self.pending[1]) // _THREE_LENGTHS + int(is_open.sum()) + len(self.parked[1]) // _THREE_LENGTHS

    def of_partitions(self, owns: Callable[[int], bool]) -> JoinerState:
        """The same state with only what waits of the partitions that ``owns`` names. Raises ValueError as `give`."""
        kept = {group: _of_partitions(getattr(self, group), place, owns) for group, place in PARTITION.items()}
        return msgspec.structs.replace(self, **kept)

    def judged(self, is_ignored: Callable[[str], bool]) -> JoinerState:
        """The same state, with pending actions ignored or not as ``is_ignored`` says. Raises ValueError as `give`."""
        numbers, lengths, texts = self.pending
        records = np.frombuffer(numbers, np.int64).reshape(-1, PENDING_NUMBERS).copy()
        for record, (_, _, action) in zip(records, _texts(lengths, texts), strict=True):
            if record[KIND] == ACTION:
                record[IGNORED] = is_ignored(action.decode())
        return msgspec.structs.replace(self, pending=(records.tobytes(), lengths, texts))

    def repacked(self, repack: Repack) -> JoinerState:
        """The same state with every packed row put through ``repack``. Raises ValueError as `give` does."""
        numbers = np.frombuffer(self.pending[0], np.int64).reshape(-1, PENDING_NUMBERS)
        labels = numbers[:, LABEL].astype(np.uint32).view(np.float32).tolist()
        kinds = numbers[:, KIND].tolist()
        known = [None if kind == ACTION else label for kind, label in zip(kinds, labels, strict=True)]
        pending = _with_rows(self.pending, known, repack)
        rows = np.frombuffer(self.waiting[1], np.uint32).reshape(-1, 3)[:, 2].tolist()
        waiting = _with_rows(self.waiting, [0.0 if size else None for size in rows], repack)  # some gave theirs away
        return msgspec.structs.replace(self, pending=pending, waiting=waiting)


def _of_partitions(columns: Columns, place: int, owns: Callable[[int], bool]) -> Columns:
    numbers, lengths, texts = columns
    sizes = np.frombuffer(lengths, np.uint32).reshape(-1, 3)
    if not len(sizes):
        return columns
    members = np.frombuffer(numbers, np.int64).reshape(len(sizes), -1)
    partitions, which = np.unique(members[:, place] & 0xFFFFFFFF, return_inverse=True)
    kept = np.flatnonzero(np.array([owns(partition) for partition in partitions.tolist()])[which])
    whole = sizes.sum(axis=1, dtype=np.int64)
    begins = whole.cumsum() - whole
    bytes_kept = np.frombuffer(texts, np.uint8)[spans(begins[kept], whole[kept])]
    return members[kept].tobytes(), sizes[kept].tobytes(), bytes_kept.tobytes()


def _with_rows(columns: Columns, labels: Sequence[float | None], repack: Repack) -> Columns:
    """``labels``: of each member; None: it has no row."""
    numbers, lengths, texts = columns
    parts: list[bytes] = []
    for label, (request, item, rest) in zip(labels, _texts(lengths, texts), strict=True):
        parts += [request, item, rest if label is None else repack(rest, label)]
    return numbers, np.array([len(part) for part in parts], np.uint32).tobytes(), b"".join(parts)


def _texts(lengths: bytes, texts: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    at = 0
    for member in np.frombuffer(lengths, np.uint32).reshape(-1, 3).tolist():
        ends = [at + sum(member[: i + 1]) for i in range(3)]
        if ends[2] > len(texts):
            raise ValueError("texts end early")
        yield texts[at : ends[0]], texts[ends[0] : ends[1]], texts[ends[1] : ends[2]]
        at = ends[2]


def encode_joiner_state(state: JoinerState) -> bytes:
    """Equal states give equal bytes."""
    return msgspec.msgpack.encode(state)


def decode_joiner_state(data: bytes) -> JoinerState:
    """Raises VersionError or CorruptError."""
    version = joiner_version(data)
    if version != JOINER_VERSION:
        raise VersionError(f"the joiner's state is of version {version!r}, this build reads 1 and {JOINER_VERSION}")
    try:
        return msgspec.msgpack.decode(data, type=JoinerState)
    except msgspec.DecodeError as error:
        raise CorruptError(f"the joiner's state cannot be read: {error}") from None


def joiner_version(data: bytes) -> object:
    """What the state says of itself. Raises CorruptError for bytes that are none."""
    try:
        return msgspec.msgpack.decode(data)[0]
    except (msgspec.DecodeError, TypeError, IndexError, KeyError, UnicodeDecodeError) as error:
        raise CorruptError(f"the joiner's state cannot be read: {error}") from None
