"""Stopping a job whose records are refused: a stream that is not what the job says it is must not look like success.

The guard looks at a step before the step is written down. So a job that is mended and started again judges the same
records anew, by its new settings.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from monolith.errors import EventError, RejectedError
from monolith.streaming.backlog import Polled, Ready
from monolith.streaming.journal import StepEntry
from monolith.streaming.lanes import Inlet

FIRST_RECORDS = 1000  # of a stream, after which its share is looked at for the first time
LEAST_RECORDS = 100  # of a stream that ends, below which a share says little, unless it is all


class Rejects:
    """What share of each stream's records is refused, over its first 1,000 records and each ``window`` after them."""

    def __init__(self, max_share: float, window: int) -> None:
        self._max_share, self._window = max_share, window
        self._tallies: dict[str, _Tally] = {}

    def check(self, inlets: Sequence[Inlet], entry: StepEntry) -> None:
        """Count the records of a step that is to be written down.

        Raises RejectedError where they fill a stream's window, or end the stream, and too many of it are refused.
        """
        if self._max_share >= 1.0:
            return
        for inlet in inlets:
            tally = self._tallies.setdefault(inlet.name, _Tally())
            for partition, end in entry.ends[inlet.name].items():
                tally.add(inlet.lanes[partition].ready.before(end))
            full = tally.records >= (self._window if tally.is_later else FIRST_RECORDS)
            useless = tally.rejected == tally.records > 0 and inlet.name != "actions"  # no sample can come of it
            if full or (entry.ended and (tally.records >= LEAST_RECORDS or useless)):
                if tally.rejected > self._max_share * tally.records:
                    raise RejectedError(self._text(inlet, tally))
                self._tallies[inlet.name] = _Tally(is_later=True)

    def _text(self, inlet: Inlet, tally: _Tally) -> str:
        reasons = "; ".join(
            f"{reason} {count:,} times, such as {tally.examples[reason]}"
            for reason, count in tally.reasons.most_common(3)
        )
        return (
            f"{tally.rejected:,} of {tally.records:,} {inlet.name} records of {inlet.source.name} cannot be used, "
            f"input.max_reject_share allows {self._max_share:g}: {reasons}. Mend the job or the stream and start "
            f"again, these records are then read anew; or raise input.max_reject_share (1: never stop)"
        )


class _Tally:
    """Of one stream, since its last window was full."""

    def __init__(self, *, is_later: bool = False) -> None:
        self.is_later = is_later
        self.records = 0
        self.reasons: Counter[str] = Counter()
        self.examples: dict[str, str] = {}

    @property
    def rejected(self) -> int:
        return self.reasons.total()

    def add(self, items: Iterator[Polled]) -> None:
        for item in items:
            if isinstance(item, Ready):
                self.records += 1
                if isinstance(item.event, EventError):
                    self._reject(item, item.event)
            else:
                self.records += len(item)

    def _reject(self, item: Ready, error: EventError) -> None:
        self.reasons[error.reason] += 1
        where = f"partition {item.record.partition} offset {item.record.offset}"
        self.examples.setdefault(error.reason, f"{where}: {error.detail}")
