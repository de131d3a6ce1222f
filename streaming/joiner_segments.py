"""The joiner in a snapshot: rows in immutable segments, which later snapshots keep, and an index that is small.

What waits changes little from one snapshot to the next. So a snapshot writes the members that are new or another as a
new *segment* of their group, and says in the *index* which segments there are and what became of each of their rows:
a byte a row, compressed. Which segments there are depends on when snapshots were taken; what they hold together does
not, and `whole_state` gives it in the canonical form of `joiner_state`. See ``docs/formats.md``.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from monolith.errors import CorruptError, VersionError
from monolith.streaming import _joiner
from monolith.streaming.joiner_state import (
    OPEN,
    Columns,
    JoinCounters,
    JoinerState,
    decode_joiner_state,
    encode_joiner_state,
    joiner_version,
    summed,
)

INDEX_VERSION = 3  # 1 and 2 are states in one piece
SEGMENT_VERSION = 1
FOLDER = "joiner"  # of a snapshot
GROUPS = ("pending", "waiting", "parked")

Read = Callable[[str], bytes]  # the bytes of a snapshot's file; raises CorruptError where it has none


class _Group(msgspec.Struct, array_like=True):
    """``segments``: (number, rows) of each, oldest first; ``statuses``: of all their rows, zlib."""

    segments: list[tuple[int, int]]
    statuses: bytes


class JoinerIndex(msgspec.Struct, array_like=True, kw_only=True):
    """What a snapshot's segments are, and all of the joiner that is in none of them."""

    version: int = INDEX_VERSION
    newest_ingestion_ms: int
    counters: JoinCounters
    groups: tuple[_Group, _Group, _Group]  # in the order of GROUPS


@dataclass(frozen=True)
class SavedJoiner:
    """``index`` and the files that it names; None: an earlier save gave the bytes under the same name."""

    index: bytes
    files: Mapping[str, bytes | None]


def save_joiner(native: _joiner.Joiner, counters: JoinCounters, *, whole: bool) -> SavedJoiner:
    """Everything that waits, as what changed since the last call; ``whole``: in segments that are all new."""
    groups, files = [], dict[str, bytes | None]()
    for group, (segments, added) in zip(GROUPS, native.save(whole), strict=True):
        files |= {_name(group, number): None for number, _ in segments}
        if added is not None:
            files[_name(group, segments[-1][0])] = msgspec.msgpack.encode((SEGMENT_VERSION, *added))
        statuses = zlib.compress(b"".join(of_rows for _, of_rows in segments), level=1)
        groups.append(_Group([(number, len(of_rows)) for number, of_rows in segments], statuses))
    index = JoinerIndex(
        newest_ingestion_ms=native.newest_ingestion_ms, counters=counters, groups=(groups[0], groups[1], groups[2])
    )
    return SavedJoiner(msgspec.msgpack.encode(index), files)


def renumbered(saved: SavedJoiner, part: int, parts: int) -> tuple[bytes, dict[str, bytes | None]]:
    """The index and files of ``saved``, with numbers of segments that no other of ``parts`` joiners gives its own."""
    index = msgspec.msgpack.decode(saved.index, type=JoinerIndex)
    names: dict[str, str] = {}
    groups = []
    for name, group in zip(GROUPS, index.groups, strict=True):
        names |= {_name(name, number): _name(name, number * parts + part) for number, _ in group.segments}
        segments = [(number * parts + part, rows) for number, rows in group.segments]
        groups.append(msgspec.structs.replace(group, segments=segments))
    index = msgspec.structs.replace(index, groups=(groups[0], groups[1], groups[2]))
    return msgspec.msgpack.encode(index), {names[name]: data for name, data in saved.files.items()}


def merged_indexes(indexes: Sequence[bytes]) -> bytes:
    """One index of all segments of joiners that have different partitions: of a joiner that has all of them."""
    each = [msgspec.msgpack.decode(index, type=JoinerIndex) for index in indexes]
    groups = []
    for number in range(len(GROUPS)):
        statuses = b"".join(zlib.decompress(index.groups[number].statuses) for index in each)
        segments = [segment for index in each for segment in index.groups[number].segments]
        groups.append(_Group(segments, zlib.compress(statuses, level=1)))
    return msgspec.msgpack.encode(
        JoinerIndex(
            newest_ingestion_ms=max(index.newest_ingestion_ms for index in each),
            counters=summed([index.counters for index in each]),
            groups=(groups[0], groups[1], groups[2]),
        )
    )


def merged_states(states: Sequence[bytes]) -> bytes:
    """The canonical state of a joiner that has the partitions of all of those that gave ``states``."""
    each = [decode_joiner_state(state) for state in states]
    merged = [
        _joiner.merged(
            number, [(*columns, _statuses(columns, group)) for one in each if (columns := getattr(one, group))]
        )
        for number, group in enumerate(GROUPS)
    ]
    return encode_joiner_state(
        JoinerState(
            newest_ingestion_ms=max(one.newest_ingestion_ms for one in each),
            counters=summed([one.counters for one in each]),
            pending=merged[0],
            waiting=merged[1],
            parked=merged[2],
        )
    )


def _statuses(columns: Columns, group: str) -> bytes:
    """Of rows that all count; see ``docs/formats.md``."""
    numbers, lengths, _ = columns
    sizes = np.frombuffer(lengths, np.uint32).reshape(-1, 3)
    statuses = np.ones(len(sizes), np.uint8)
    if group == "waiting" and len(sizes):
        is_open = np.frombuffer(numbers, np.int64).reshape(len(sizes), -1)[:, OPEN] & 1
        statuses += (2 * is_open + 4 * (sizes[:, 2] > 0)).astype(np.uint8)
    return statuses.tobytes()


def read_joiner(data: bytes, read: Read) -> JoinerState:
    """The state in ``data``, which is whole (version 2) or an index whose segments ``read`` gives.

    Raises VersionError or CorruptError.
    """
    if joiner_version(data) != INDEX_VERSION:
        return decode_joiner_state(data)
    try:
        index = msgspec.msgpack.decode(data, type=JoinerIndex)
        columns = [_columns(number, index.groups[number], read) for number in range(len(GROUPS))]
    except (msgspec.DecodeError, zlib.error, ValueError) as error:
        raise CorruptError(f"the joiner's index or a segment of it cannot be read: {error}") from None
    return JoinerState(
        newest_ingestion_ms=index.newest_ingestion_ms,
        counters=index.counters,
        pending=columns[0],
        waiting=columns[1],
        parked=columns[2],
    )


def no_files(name: str) -> bytes:
    """A `Read` for states that stand in no snapshot."""
    raise CorruptError(f"the joiner's state names the file {name}, which only its snapshot has")


def _columns(number: int, group: _Group, read: Read) -> Columns:
    statuses, at, segments = zlib.decompress(group.statuses), 0, []
    for segment, rows in group.segments:
        name = _name(GROUPS[number], segment)
        version, numbers, lengths, texts = msgspec.msgpack.decode(read(name), type=tuple[int, bytes, bytes, bytes])
        if version != SEGMENT_VERSION:
            raise VersionError(f"{name} is of version {version}, this build reads {SEGMENT_VERSION}")
        segments.append((numbers, lengths, texts, statuses[at : at + rows]))
        at += rows
    if at != len(statuses):
        raise ValueError(f"there are {len(statuses)} statuses of {at} rows")
    return _joiner.merged(number, segments)


def _name(group: str, number: int) -> str:
    return f"{FOLDER}/{group}-{number:06d}.rows"
