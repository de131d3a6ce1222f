"""Cutting steps live: polls the streams and says when a step is worth cutting, and what is in it.

Nothing here changes what the job computes: a cut is a proposal, which counts once it is in the journal. A step is cut
when it is full or has lingered, when silence lets go of something that waits, when it is time to publish, and at the
end of the streams.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

from monolith.config import JobConfig
from monolith.errors import ConfigError
from monolith.events import WATERMARK_END, WATERMARK_START
from monolith.streaming.cutting import Cut, cut_oldest, cut_slowest, is_silent, watermark_after
from monolith.streaming.journal import Positions, StepEntry
from monolith.streaming.lanes import Inlet, Lane
from monolith.streaming.waiting import Waiting

WAIT_S = 0.01  # how long one stream is waited for before the others are looked at again
_CROWDED = 0.75  # share of join.max_bytes from which on lanes that run ahead are not read


@dataclass(frozen=True, slots=True)
class Standing:
    """What the steps so far have come to: all that a cut depends on besides the streams and the clock."""

    step: int
    watermark_ms: int
    held_bytes: int  # by the joiner
    due_ms: int  # the watermark that lets go of the next thing that waits
    pending_ms: int  # order time of the next record that waits
    unpublished: bool  # samples were made since the last publish


class LiveCutter:
    """Owned by one `StepReader`. ``clock`` is wall time in seconds."""

    def __init__(self, job: JobConfig, inlets: list[Inlet], clock: Callable[[], float]) -> None:
        self._input, self._join, self._train = job.input, job.join, job.train
        self._inlets = inlets
        self._clock = clock
        self._agree = job.input.jump_records
        self._out_of_order_ms = round(job.input.max_out_of_order_s * 1000)
        self._max_jump_ms = round(job.input.max_jump_s * 1000)
        self._waiting = {inlet.name: Waiting(inlet.source.name, "it lacks partitions") for inlet in inlets}
        self._begins: Positions = {}
        self._stops: Positions = {}
        self._linger_until: float | None = None
        self._last_publish = clock()
        self._heard_at = self._last_publish  # the newest record of all lanes
        self._crowded_bytes: int | None = None  # held before the last step, if that one was cut in a crowd

    def start(self, *, ended: bool) -> None:
        """The clock begins to count. ``ended``: the run came to its end before; what was appended since is new."""
        self._last_publish = self._heard_at = self._clock()
        for lane in self._lanes():
            lane.heard_at = self._last_publish
            lane.stop = None if ended else lane.stop

    def look(self, wait_s: float) -> None:
        """Meet new partitions and poll every lane that has room; wait up to ``wait_s`` if nothing comes."""
        for inlet in self._inlets:
            for partition, position in self._to_meet(inlet).items():
                inlet.add_lane(partition, position, seek=False).heard_at = self._clock()
                self._begins.setdefault(inlet.name, {})[partition] = position
            if inlet.source.bounded or not self._input.follow:
                self._set_stops(inlet)
        if not self._fill(0.0) and wait_s > 0 and not self._fill(wait_s / len(self._inlets)):
            self._doze(wait_s)

    def _to_meet(self, inlet: Inlet) -> dict[int, int]:
        """The partitions that get a lane now, with where it begins.

        Partitions are added to one stream after the other: where streams are co-partitioned, those that are added
        while the job runs are met once all streams have them. What there is at first is for `Runner.check`.
        """
        new = inlet.new_partitions()
        if not new or not self._input.co_partitioned or not all(each.lanes for each in self._inlets):
            return new
        for other in self._inlets:
            lacking, waiting = sorted(new.keys() - set(other.source.partitions())), self._waiting[other.name]
            if lacking:
                waiting.say(f"it lacks the partitions {lacking} that {inlet.source.name} has now: nobody reads them")
                new = {partition: position for partition, position in new.items() if partition not in lacking}
            elif other is not inlet:
                waiting.over()
        return new

    def _set_stops(self, inlet: Inlet) -> None:
        lanes = [lane for lane in inlet.lanes.values() if lane.stop is None]
        ends = inlet.source.end_position() if lanes else {}
        for lane in lanes:
            end = ends.get(lane.partition)
            if end is not None and end >= lane.polled:  # else the stream was cut or made again: polling meets the loss
                lane.position = min(lane.position, lane.ready.offset(0) if lane.ready else lane.polled)
                lane.stop = end
                self._stops.setdefault(inlet.name, {})[lane.partition] = lane.stop

    def _fill(self, wait_s: float) -> bool:
        """Poll until every lane is full or has nothing more; wait for a stream's first record only."""
        most = self._train.step_records
        any_came = False
        for inlet in self._inlets:
            came, patience_s = True, wait_s
            while came and (roomy := [p for p, lane in inlet.lanes.items() if lane.has_room(most)]):
                came = inlet.fill(most, patience_s, roomy, self._clock)
                patience_s = 0.0
                any_came |= came
        return any_came

    def _doze(self, wait_s: float) -> None:
        """Where no lane has room, polling does not wait."""
        most = self._train.step_records
        if not any(lane.has_room(most) for lane in self._lanes()):
            time.sleep(wait_s)

    def at_end(self) -> bool:
        """Whether the steps have taken everything that the streams will give."""
        return all(inlet.lanes and all(lane.done for lane in inlet.lanes.values()) for inlet in self._inlets)

    def cut(self, standing: Standing) -> StepEntry | None:
        """The step that is worth cutting now, or None if it is better to wait.

        Raises ConfigError if what waits in the joiner does not fit into ``join.max_bytes``.
        """
        if not all(inlet.lanes for inlet in self._inlets):
            return None
        now = self._clock()
        lanes = self._lanes()
        self._notice_end_of_silence(lanes)
        caught_up = {inlet.lanes[partition] for inlet in self._inlets for partition in inlet.caught_up()}
        idle = {x for x in caught_up if now - max(x.heard_at, x.woken_at) >= self._input.idle_s}
        cut = self._choose(lanes, idle, standing.held_bytes)
        silent_ms = round((now - self._heard_at) * 1000)
        watermark_ms = watermark_after(cut, idle, self._out_of_order_ms, standing.watermark_ms, silent_ms)
        ended = watermark_ms == WATERMARK_END
        publish = ended or (standing.unpublished and now - self._last_publish >= self._train.publish_every_s)
        behind = any(not lane.ready and lane not in caught_up and not lane.done for lane in lanes)
        released_ms = self._released_ms(lanes) if is_silent(cut, idle) and not ended else WATERMARK_START
        waiting_ms = min([standing.pending_ms, *(held.time_ms for lane in lanes for held in lane.held)])
        lets_go = not cut.records and (watermark_ms >= standing.due_ms or released_ms >= waiting_ms)
        if not (publish or lets_go or self._is_full(cut, behind, now)):
            return None
        return StepEntry(
            step=standing.step + 1,
            ends={i.name: {p: cut.end(lane) for p, lane in sorted(i.lanes.items())} for i in self._inlets},
            watermark_ms=watermark_ms,
            released_ms=released_ms,
            agree=self._agree,
            publish=publish,
            ended=ended,
            idle=_by_stream(idle),
            begins=self._begins,
            stop_at=self._stops,
        )

    def closing(self, standing: Standing) -> StepEntry:
        """A step that takes no record and publishes, for a trainer that is told to stop."""
        return StepEntry(
            step=standing.step + 1,
            ends={i.name: {p: lane.position for p, lane in sorted(i.lanes.items())} for i in self._inlets},
            watermark_ms=standing.watermark_ms,
            agree=self._agree,
            publish=True,
            begins=self._begins,
            stop_at=self._stops,
        )

    def _notice_end_of_silence(self, lanes: list[Lane]) -> None:
        """If a record is the first after a silence of all lanes, those that were not idle before have their time again.

        Else the lane that wakes first would move the watermark away from those whose records come a moment later.
        """
        newest = max(lane.heard_at for lane in lanes)
        if newest - self._heard_at >= self._input.idle_s:
            for lane in lanes:
                if self._heard_at - lane.heard_at < self._input.idle_s:
                    lane.woken_at = newest
        self._heard_at = newest

    def _released_ms(self, lanes: list[Lane]) -> int:
        """The order time up to which silence lets records go: all that are within reach of the newest clock."""
        newest_ms = max(lane.clock.ms for lane in lanes)
        return WATERMARK_END - 1 if newest_ms == WATERMARK_START else newest_ms + self._max_jump_ms

    def written(self, entry: StepEntry) -> None:
        """``entry`` is in the journal: go on from there."""
        self._begins, self._stops = {}, {}
        self._linger_until = None
        if entry.publish:
            self._last_publish = self._clock()

    def _choose(self, lanes: list[Lane], idle: set[Lane], held_bytes: int) -> Cut:
        """The records of the step; in a crowd only those that let what waits be worked off."""
        limit = self._join.max_bytes
        before, self._crowded_bytes = self._crowded_bytes, None
        if held_bytes <= _CROWDED * limit:
            return cut_oldest(lanes, self._train.step_records, self._agree)
        if before is not None and held_bytes > max(limit, before):
            raise self._does_not_fit(held_bytes)
        self._crowded_bytes = held_bytes
        return cut_slowest(lanes, self._train.step_records, idle, self._agree)

    def _does_not_fit(self, held_bytes: int) -> ConfigError:
        return ConfigError(
            f"what waits for its label takes {held_bytes:,} bytes, join.max_bytes allows {self._join.max_bytes:,}: "
            f"raise join.max_bytes, or lower join.window_s ({self._join.window_s:g}), join.dedup_s "
            f"({self._join.dedup_s:g}) or input.max_out_of_order_s ({self._input.max_out_of_order_s:g}); where many "
            f"events are ahead of their time, lower input.max_jump_s ({self._input.max_jump_s:g})"
        )

    def _is_full(self, cut: Cut, behind: bool, now: float) -> bool:
        """Whether the records make a step: enough of them, with no lane left behind, or waited for long enough."""
        if not cut.records:
            return False
        if cut.records >= self._train.step_records and not behind:
            return True
        if self._linger_until is None:
            self._linger_until = now + self._train.step_linger_s
        return now >= self._linger_until

    def _lanes(self) -> list[Lane]:
        return [inlet.lanes[partition] for inlet in self._inlets for partition in sorted(inlet.lanes)]


def _by_stream(lanes: Collection[Lane]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for lane in sorted(lanes, key=lambda lane: (lane.number, lane.partition)):
        found.setdefault(lane.stream, []).append(lane.partition)
    return found
