"""What a snapshot keeps of a `StepReader`: MessagePack, versioned, canonical."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from monolith.errors import CorruptError, EventError, VersionError
from monolith.events import Record
from monolith.streaming.clock import LaneClock
from monolith.streaming.joiner_segments import INDEX_VERSION, Read, read_joiner
from monolith.streaming.joiner_state import encode_joiner_state, joiner_version
from monolith.streaming.lanes import Held, Inlet, Lane

# Read as well: 3, whose rows have no label blocks, 2, without features, and 1, whose lanes have three fields.
STATE_VERSION = 4
STATE_FILE = "stream.bin"  # of a snapshot


class HeldState(msgspec.Struct, array_like=True):
    """A record that is too far ahead of its lane's clock to be believed yet."""

    number: int
    offset: int
    key: bytes | None
    value: bytes | None
    event_time_ms: int  # the record's own stamp
    ingestion_time_ms: int


class LaneState(msgspec.Struct, array_like=True):
    """Where the steps stand in one partition."""

    position: int
    clock_ms: int
    stop: int | None
    recent: list[int] = []
    seen: int = 0
    misdated: int = 0
    held: list[HeldState] = []


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
    features: bytes = b""  # MessagePack of the `CardFeature`s that the joiner's packed rows are of
    tasks: list[str] = []  # those of the label blocks with which the rows begin; empty: rows have none


def lane_state(lane: Lane) -> LaneState:
    """What a snapshot keeps of ``lane``."""
    held = [
        HeldState(
            x.number, x.record.offset, x.record.key, x.record.value, x.record.event_time_ms, x.record.ingestion_time_ms
        )
        for x in lane.held
    ]
    return LaneState(lane.position, lane.clock.ms, lane.stop, list(lane.clock.recent), lane.seen, lane.misdated, held)


def lane_states(inlets: Sequence[Inlet]) -> dict[str, dict[int, LaneState]]:
    """Of every lane, by stream and partition."""
    return {inlet.name: {p: lane_state(lane) for p, lane in sorted(inlet.lanes.items())} for inlet in inlets}


def restore_lane(inlet: Inlet, partition: int, state: LaneState) -> None:
    """Give ``inlet`` the lane that ``state`` was kept of."""
    lane = inlet.add_lane(partition, state.position, seek=True)
    lane.clock, lane.stop = LaneClock(state.clock_ms, state.recent), state.stop
    lane.seen, lane.misdated = state.seen, state.misdated
    for kept in state.held:
        stamps = kept.event_time_ms, kept.ingestion_time_ms
        record = Record(kept.key, kept.value, *stamps, partition, kept.offset)
        event = inlet.decode(record)
        if isinstance(event, EventError):
            raise CorruptError(
                f"the record {inlet.name}/{partition}/{kept.offset} was fit for the job when it was held, now it is "
                f"not: {event}; set back the settings of the job's features and input"
            )
        lane.held.append(Held(record, event, kept.number))


def decode_reader_state(data: bytes) -> ReaderState:
    """Raises VersionError or CorruptError."""
    try:
        version = msgspec.msgpack.decode(data)[0]
        if not (isinstance(version, int) and 1 <= version <= STATE_VERSION):
            raise VersionError(f"the reader's state is of version {version!r}, this build reads 1 to {STATE_VERSION}")
        return msgspec.msgpack.decode(data, type=ReaderState)
    except (msgspec.DecodeError, TypeError, IndexError, KeyError) as error:
        raise CorruptError(f"the reader's state cannot be read: {error}") from None


def whole_state(read: Read) -> bytes:
    """The canonical state of the snapshot whose files ``read`` reads: equal for snapshots of equal states.

    Raises VersionError or CorruptError.
    """
    state = decode_reader_state(read(STATE_FILE))
    if joiner_version(state.joiner) == INDEX_VERSION:
        state.joiner = encode_joiner_state(read_joiner(state.joiner, read))
    return msgspec.msgpack.encode(state)
