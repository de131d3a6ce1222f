"""The steps of what the streams hold now, for looking only: nothing is written, committed or waited for.

Steps are cut by size alone, whatever the clock says: the same streams always give the same steps. They are those of a
training run that does not follow its streams, as long as that run finds the records as fast as it asks for them, which
logs and files give it; a run whose steps timing decided is repeated from its journal (`StepReader.open`).
"""

from __future__ import annotations

import msgspec

from monolith.config import JobConfig
from monolith.events import Joined, Record, Shown
from monolith.streaming.between import Between, Offsets, offsets_between
from monolith.streaming.codec import FeatureDecoder, Stream
from monolith.streaming.cutting import Cut
from monolith.streaming.deadletters import DeadLetters
from monolith.streaming.inlets import open_inlets
from monolith.streaming.joiner import OnShown
from monolith.streaming.journal import UnwrittenJournal
from monolith.streaming.lanes import Inlet
from monolith.streaming.live import LiveCutter
from monolith.streaming.steps import StepReader


def open_bounded(
    job: JobConfig,
    *,
    unjoined: bool = False,
    decoder: FeatureDecoder | None = None,
    between: Between | None = None,
    on_shown: OnShown | None = None,
) -> StepReader:
    """Open the job's streams up to their present ends, or the part of each that is ``between`` two times.

    ``unjoined``: `input.samples` holds feature events, each of which is a sample by itself, with label 0. ``decoder``:
    another one than the job's. Raises ConfigError, also for a stream that is not there, and UnavailableError for one
    between times that does not answer.
    """
    quiet = msgspec.structs.replace(job.input, follow=False, dead_letters=None)
    job = msgspec.structs.replace(job, input=quiet)
    inlets = open_inlets(job, UnjoinedDecoder(job) if unjoined else decoder)
    cutter = SizeCutter(job, inlets, between)
    return StepReader(
        job, inlets, UnwrittenJournal(), DeadLetters(None), clock=_stopped_clock, cutter=cutter, on_shown=on_shown
    )


class SizeCutter(LiveCutter):
    """Cuts a step when every stream has given as much as it may hold back, or all it has."""

    def __init__(self, job: JobConfig, inlets: list[Inlet], between: Between | None = None) -> None:
        super().__init__(job, inlets, _stopped_clock)
        self._ends: dict[str, Offsets] = {}
        if between is not None and between != Between():
            self._ends = {inlet.name: offsets_between(inlet.source, between)[1] for inlet in inlets}

    def _set_stops(self, inlet: Inlet) -> None:
        super()._set_stops(inlet)
        for partition, end in self._ends.get(inlet.name, {}).items():
            lane = inlet.lanes[partition]
            if lane.stop is not None and end < lane.stop:
                lane.stop = self._stops[inlet.name][partition] = end

    def _is_full(self, cut: Cut, behind: bool, now: float) -> bool:  # noqa: ARG002
        most = self._train.step_records
        return cut.records > 0 and not any(lane.has_room(most) for lane in self._lanes())


class UnjoinedDecoder(FeatureDecoder):
    """Takes the feature events of a stream for samples."""

    def decode(self, record: Record, stream: Stream) -> Joined:  # noqa: ARG002
        """The record's feature event as a sample. Raises EventError as `FeatureDecoder` does."""
        event = super().decode(record, "features")
        assert isinstance(event, Shown)  # anything else was refused there
        row = self.labels.of_label(0.0) + event.row
        return Joined(event.request_id, event.item_id, event.event_time_ms, row, label=0.0)


def _stopped_clock() -> float:
    return 0.0
