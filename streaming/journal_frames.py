"""The bytes of a step journal's file: its head, frames for steps and for settings, and marks of what is durable.

Layout (`docs/formats.md`; integers little-endian, bodies MessagePack):

    head     "MNLJRNL1" length:u32 crc32:u32 of length and body   body: {version, lineage, first_step}
    frame    length:u32 crc32:u32 of the length, crc32:u32 of the body
             body: `StepEntry`, `SettingsEntry`, `RecoveryEntry` or {durable}

A power cut may leave any mixture of old and new sectors of what was not synced, so a frame that is not as written is
one of two things. If a mark behind it says that its step was durable, its bytes changed later: `CorruptError`. If no
mark says so, it never was durable, nothing was built on it, and the journal ends before it.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import msgspec

from monolith.errors import CorruptError, VersionError
from monolith.events import WATERMARK_START

# Read as well: 3, without settings, 2, without `StepEntry.agree`, and 1, without marks.
JOURNAL_VERSION = 4
_WITHOUT_MARKS = 1
SETTINGS_FORMAT = 1

_MAGIC = b"MNLJRNL1"
_HEAD = struct.Struct("<8sII")
_MOST_HEAD_BYTES = 4096
_FRAME = struct.Struct("<III")
_MARK_BODY = struct.Struct(">10sQ")
_MARK_KEY = b"\x81\xa7durable\xcf"  # MessagePack: a map of one key, whose value is a u64
_RECOVERY_KEY = b"\x84\xafrecovered_after"  # a map of four keys, of which this is the first
_SETTINGS_KEY = b"\x83\xa8settings"  # a map of three keys, of which this is the first

Positions = dict[str, dict[int, int]]  # stream -> partition -> offset


class StepEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Everything that timing decided about one step."""

    step: int
    ends: Positions  # after the step, by stream and partition
    watermark_ms: int
    released_ms: int = WATERMARK_START  # records up to this order time do not wait for the watermark: all is silent
    agree: int = 1  # so many records of a partition move its clock, see `LaneClock`
    publish: bool = False
    ended: bool = False  # nothing comes after it
    idle: dict[str, list[int]] = {}  # partitions that did not hold the watermark
    begins: Positions = {}  # of partitions that the job meets for the first time
    stop_at: Positions = {}  # where a job that does not follow will end; in the first entry of a run to there


class SettingsEntry(msgspec.Struct, frozen=True, kw_only=True):
    """Which settings the steps from ``from_step`` on are made with, up to the next step that has an entry.

    Of two entries for one step the later in the journal counts.
    """

    settings: bytes  # `monolith.config.deciding.Settings`; nothing here looks into them
    from_step: int
    format: int = SETTINGS_FORMAT  # of ``settings``


class RecoveryEntry(msgspec.Struct, frozen=True, kw_only=True):
    """After a step, some ranks went on with their newer rows, and those that were lost with a snapshot's.

    So the steps after ``recovered_after`` cannot be repeated from a state before them. A build that does not know the
    frame refuses the journal.
    """

    recovered_after: int
    snapshot: int  # the step whose rows the lost ranks went on with
    lost: list[int]
    ranks: int  # how many there were

    def __str__(self) -> str:
        lost = ", ".join(map(str, self.lost)) or "none"
        return (
            f"after step {self.recovered_after} the run went on without what it had lost (of {self.ranks} ranks: "
            f"{lost}; their rows went back to step {self.snapshot})"
        )


Entry = StepEntry | SettingsEntry | RecoveryEntry


class Head(msgspec.Struct, frozen=True):
    """What a file says of itself."""

    version: int
    lineage: str
    first_step: int

    @property
    def has_marks(self) -> bool:
        """Whether marks of what is durable are among its frames."""
        return self.version != _WITHOUT_MARKS

    @property
    def is_outdated(self) -> bool:
        """Whether a step of this build may not be written to the file."""
        return self.version < JOURNAL_VERSION


def encode_head(lineage: str, first_step: int) -> bytes:
    """What a file begins with."""
    body = msgspec.msgpack.encode(Head(JOURNAL_VERSION, lineage, first_step))
    length = struct.pack("<I", len(body))
    return _MAGIC + length + struct.pack("<I", zlib.crc32(length + body)) + body


def encode_entry(entry: StepEntry) -> bytes:
    """The frame of a step."""
    return _frame(msgspec.msgpack.encode(entry))


def encode_settings(entry: SettingsEntry) -> bytes:
    """The frame of settings."""
    return _frame(msgspec.msgpack.encode(entry))


def encode_recovery(entry: RecoveryEntry) -> bytes:
    """The frame of a partial recovery."""
    return _frame(msgspec.msgpack.encode(entry))


def encode_mark(step: int) -> bytes:
    """The frame that says that everything up to ``step`` is on the disk."""
    return _frame(_MARK_BODY.pack(_MARK_KEY, step))


def _frame(body: bytes) -> bytes:
    length = struct.pack("<I", len(body))
    return _FRAME.pack(len(body), zlib.crc32(length), zlib.crc32(body)) + body


def read_head(segment: Path) -> tuple[Head, int]:
    """The head and the byte where it ends. Raises CorruptError or VersionError."""
    with segment.open("rb") as file:
        fixed = file.read(_HEAD.size)
        magic, length, crc = _HEAD.unpack(fixed.ljust(_HEAD.size, b"\0"))
        if magic != _MAGIC:
            raise CorruptError(f"{segment} is not a step journal: it begins with {fixed[:8]!r}, not {_MAGIC!r}")
        body = file.read(min(length, _MOST_HEAD_BYTES))
    if len(body) != length or zlib.crc32(fixed[8:12] + body) != crc:
        raise CorruptError(f"{segment}: the head, from byte 0 on, fails its checksum")
    try:
        head = msgspec.msgpack.decode(body, type=Head)
    except msgspec.DecodeError as error:
        raise VersionError(f"{segment}: the head is not one that this build knows: {error}") from None
    if not 1 <= head.version <= JOURNAL_VERSION:
        raise VersionError(f"{segment} is of version {head.version}, this build reads 1 to {JOURNAL_VERSION}")
    return head, _HEAD.size + length


def read_frames(segment: Path, after: tuple[int, int] | None = None) -> Iterator[tuple[Entry | None, int]]:
    """Every frame up to where the journal ends, None for a mark, with the byte where the frame ends.

    ``after`` is a step, and the byte where its frame ends: those before are left out. Raises CorruptError at
    the first that was durable and is not as written, and VersionError at one that this build does not know.
    """
    head, at = read_head(segment)
    step, at = after or (head.first_step - 1, at)
    with segment.open("rb") as file:
        file.seek(at)
        while fixed := file.read(_FRAME.size):
            length, length_crc, body_crc = _FRAME.unpack(fixed.ljust(_FRAME.size, b"\0"))
            known = zlib.crc32(fixed[:4]) == length_crc and len(fixed) == _FRAME.size
            body = file.read(length) if known else b""
            if not known or len(body) < length or zlib.crc32(body) != body_crc:
                _check_end(segment, head, at, step, known=known)
                return
            at += _FRAME.size + length
            if head.has_marks and body.startswith(_MARK_KEY):
                yield None, at
                continue
            entry = _decode(segment, at, body)
            step = entry.step if isinstance(entry, StepEntry) else step
            yield entry, at


def _decode(segment: Path, at: int, body: bytes) -> Entry:
    start = at - _FRAME.size - len(body)
    try:
        if body.startswith(_RECOVERY_KEY):
            return msgspec.msgpack.decode(body, type=RecoveryEntry)
        if not body.startswith(_SETTINGS_KEY):
            return msgspec.msgpack.decode(body, type=StepEntry)
        settings = msgspec.msgpack.decode(body, type=SettingsEntry)
    except msgspec.DecodeError as error:
        raise VersionError(f"{segment}: the frame at byte {start} is not one that this build knows: {error}") from None
    if settings.format != SETTINGS_FORMAT:
        raise VersionError(
            f"{segment}: the settings at byte {start} are of format {settings.format}, this build reads "
            f"{SETTINGS_FORMAT}"
        )
    return settings


def _check_end(segment: Path, head: Head, at: int, step: int, *, known: bool) -> None:
    """Raise CorruptError unless a crash may have left the bytes from ``at`` on, which follow on ``step``."""
    rest = segment.read_bytes()[at:]
    if head.has_marks:
        good = _newest_mark(rest) <= step
    else:  # an unfinished frame, or room that the file system gave and never wrote
        good = len(rest) < _FRAME.size + (int.from_bytes(rest[:4], "little") if known else 0) or not rest.strip(b"\0")
    if not good:
        what = "its checksum" if known else "the checksum of its length"
        raise CorruptError(f"{segment}: the frame at byte {at} fails {what}")


def _newest_mark(data: bytes) -> int:
    """The highest step that a whole mark anywhere in ``data`` says is durable; 0 for none."""
    prefix, newest, at = encode_mark(0)[:8], 0, -1
    while (at := data.find(prefix, at + 1)) >= 0:
        step = int.from_bytes(data[at + _FRAME.size + len(_MARK_KEY) :][:8], "big")
        if data.startswith(encode_mark(step), at):
            newest = max(newest, step)
    return newest
