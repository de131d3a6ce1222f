"""How far a job is, for people and metrics."""

from __future__ import annotations

from dataclasses import dataclass

from monolith.streaming.joiner_state import JoinCounters
from monolith.streaming.journal import Positions


@dataclass(frozen=True, slots=True)
class Progress:
    """One look at a `StepReader`."""

    step: int
    records: int  # in steps since the run's first
    lag: int  # records in the streams that no step has taken
    watermark_ms: int
    watermark_lag_ms: int  # wall clock less watermark; 0 before the first event
    waiting_bytes: int  # what the joiner holds
    skipped: int  # offsets lost and passed over by this process
    joined: JoinCounters
    dead_letters: dict[str, int]  # by reason, since the run's first step
    held: int  # records that are too far ahead of their partition's clock to be believed yet
    jumps: int  # times that a partition's clock jumped (input.max_jump_s), or was ahead of its records, in this process
    stalled_s: float  # for how long records came and the watermark stood, in this process; 0: it moves
    positions: Positions
    ends: Positions
