"""What processes that read one job's streams together say to each other: plain data, MessagePack.

The first of them cuts the steps. It asks all (itself, too) to do a piece of *work*, each on the partitions that are its
own. Arrays travel as bytes, little-endian int64.
"""

from __future__ import annotations

import msgspec

from monolith.streaming.deadletters import DeadLetter
from monolith.streaming.intake import Reached, Waits
from monolith.streaming.journal import StepEntry
from monolith.streaming.reader_state import LaneState
from monolith.streaming.step_digest import Digests

# --- work, and what comes of it ---------------------------------------------------------------------------------------


class Look(msgspec.Struct, frozen=True, array_like=True, tag="look"):
    """Poll partitions of ``stream``, unless records of them are known that were not told yet; a `Heads` comes."""

    stream: str
    begins: dict[int, int]  # partition -> offset at which its lane begins, of those that are new
    partitions: list[int]
    most: int
    wait_s: float


class LaneHeads(msgspec.Struct, frozen=True, array_like=True):
    """What is new in a lane: of each record what a step is cut by."""

    partition: int
    offsets: bytes  # (n,)
    times_ms: bytes  # (n,): event times; of a record without an event WATERMARK_START
    sizes: bytes  # (n,): of the values
    errors: list[tuple[int, str, str]]  # of records without an event: number among the n, reason, detail


class Heads(msgspec.Struct, frozen=True, array_like=True):
    """The answer to `Look`."""

    lanes: list[LaneHeads]
    polled: dict[int, int]  # of each partition of one's own that was asked for: where the source stands
    ends: dict[int, int]  # of each partition of one's own: the offset after its last record, as last heard of
    skipped: int  # see `Source`
    missing: str | None


class Take(msgspec.Struct, frozen=True, array_like=True, tag="take"):
    """Take the step's records, move the clocks, refuse what is to be refused; a `PartTaken` comes."""

    entry: StepEntry
    begins: dict[str, dict[int, int]]  # as in `Look`, by stream


class LaneFacts(msgspec.Struct, frozen=True, array_like=True):
    """A lane's clock, and what is held in it, after a step."""

    clock_ms: int
    recent: list[int]
    seen: int
    misdated: int
    held: list[tuple[int, int]]  # number among the lane's records, event time


class PartTaken(msgspec.Struct, frozen=True, array_like=True):
    """The answer to `Take`."""

    records: int
    digests: Digests
    lanes: dict[str, dict[int, LaneFacts]]
    jumps: int  # see `Gate`
    newest_ingestion_ms: int  # see `Reached`
    last_ms: int


class Join(msgspec.Struct, frozen=True, array_like=True, tag="join"):
    """Make the samples of the step whose records were taken; a `PartJoined` comes, and the samples stay."""

    reached: Reached


class PartJoined(msgspec.Struct, frozen=True, array_like=True):
    """The answer to `Join`."""

    turns: bytes  # (n, 5): see `JoinedSamples`
    heads: bytes  # the samples without their features, `tables.batch_bytes`
    strings: dict[str, dict[int, str]]
    letters: list[DeadLetter]
    waits: Waits


class Keep(msgspec.Struct, frozen=True, array_like=True, tag="keep"):
    """Say what a snapshot is to hold; a `PartKept` comes, and the files stay until they are written."""

    whole: bool  # see `Joiner.save`
    in_files: bool  # False: all of the joiner in `PartKept.joiner`, and no files


class PartKept(msgspec.Struct, frozen=True, array_like=True):
    """The answer to `Keep`."""

    joiner: bytes  # an index of segments, or the state in one piece
    files: dict[str, bool]  # whether each segment is new
    lanes: dict[str, dict[int, LaneState]]


class Write(msgspec.Struct, frozen=True, array_like=True, tag="write"):
    """Write the new files of the last `Keep` into a folder; how many bytes that is comes."""

    folder: str


class Stand(msgspec.Struct, frozen=True, array_like=True, tag="stand"):
    """Stand where a state was kept; the `Waits` of one's own part come."""

    state: bytes  # a `ReaderState`
    folder: str  # of the snapshot that has the joiner's segments


PartWork = Look | Take | Join | Keep | Write | Stand
