"""What a snapshot keeps of a `StepReader`: MessagePack, versioned, canonical."""

from __future__ import annotations

import msgspec

from monolith.errors import CorruptError, VersionError

STATE_VERSION = 1


class LaneState(msgspec.Struct, array_like=True):
    """Where the steps stand in one partition."""

    position: int
    clock_ms: int
    stop: int | None


class ReaderState(msgspec.Struct, array_like=True):
    """Where a job stands between two steps."""

    version: int
    step: int
    records: int
    watermark_ms: int
    ended: bool
    unpublished: bool
    lanes: dict[str, dict[int, LaneState]]
    joiner: bytes
    letters: bytes


def decode_reader_state(data: bytes) -> ReaderState:
    """Raises VersionError or CorruptError."""
    try:
        version = msgspec.msgpack.decode(data)[0]
        if version != STATE_VERSION:
            raise VersionError(f"the reader's state is of version {version!r}, this build reads {STATE_VERSION}")
        return msgspec.msgpack.decode(data, type=ReaderState)
    except (msgspec.DecodeError, TypeError, IndexError, KeyError) as error:
        raise CorruptError(f"the reader's state cannot be read: {error}") from None
