"""What became of the records of a run, for people, metrics and `status.json`."""

from __future__ import annotations

import msgspec

from monolith.streaming.joiner_state import JoinCounters
from monolith.streaming.journal import Positions


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """One look at a `StepReader`. Counts are since the run's first step, except where a process's own are meant."""

    step: int = 0
    records: int = 0  # in steps
    lag: int | None = 0  # records in the streams that no step has taken; None: a stream does not answer
    missing: dict[str, str] = {}  # streams that cannot be read now, each with why
    watermark_ms: int = 0
    watermark_lag_ms: int = 0  # wall clock less watermark; 0 before the first event
    waiting_bytes: int = 0  # what the joiner holds
    skipped: int = 0  # offsets lost and passed over by this process
    joined: JoinCounters = msgspec.field(default_factory=JoinCounters)
    dead_letters: dict[str, int] = {}  # by reason
    lost_letters: int = 0  # dead letters that were counted, and not written to their sink
    crossed: int = 0  # actions with features in another partition, by this process, where streams are co-partitioned
    held: int = 0  # records that are too far ahead of their partition's clock to be believed yet
    jumps: int = 0  # times that a partition's clock jumped, or was ahead of its records, in this process
    stalled_s: float = 0.0  # for how long records came and the watermark stood, in this process; 0: it moves
    positions: Positions = {}
    ends: Positions = {}

    @property
    def rejected(self) -> int:
        """Records that could not be used."""
        return sum(self.dead_letters.values())

    def dropped(self) -> dict[str, int]:
        """What was left out, by reason, where there was any: what people ask for when samples are missing."""
        joined = self.joined
        counts = {
            **{f"rejected {reason}": count for reason, count in sorted(self.dead_letters.items())},
            "late positives": joined.late,
            "unmatched actions": joined.unmatched_actions,
            "ignored actions": joined.ignored_actions,
            "repeated features": joined.duplicate_features,
            "repeated actions": joined.duplicate_actions,
            "negatives sampled out": joined.sampled_out,
            "offsets skipped": self.skipped,
            "letters lost": self.lost_letters,
        }
        return {what: count for what, count in counts.items() if count}
