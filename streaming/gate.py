"""The gate between the lanes and the joiner: a record with a wrong event time costs at most itself.

What a step takes from a lane comes through here, in order, and is a function of the lane's records alone:

- A record within `input.max_jump_s` of its lane's clock goes on to the joiner, where it waits until the watermark has
  reached its time.
- A record further ahead is *held* in its lane. It goes on when the clock comes within reach, or the watermark reaches
  its time. If the lane's next records contradict it, or the stream ends, it is refused: a dead letter, ``ahead``.
- Before a lane has a clock all its records are held, and go on as above.
- A record that is in another unit than the job says is refused: ``time_unit``.

A held record keeps nothing else waiting: in the joiner too it would only wait for its time. At most
``2 * input.jump_records - 2`` records of a lane are held.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import cast

import numpy as np

from monolith.config import InputConfig
from monolith.echo import shown
from monolith.errors import ConfigError, EventError
from monolith.events import WATERMARK_END, WATERMARK_START, Decoded, Record
from monolith.streaming.backlog import Polled, Ready, readies
from monolith.streaming.clock import end_of
from monolith.streaming.codec import encode
from monolith.streaming.deadletters import DeadLetters
from monolith.streaming.event_block import EventBlock
from monolith.streaming.joiner import Joiner
from monolith.streaming.journal import StepEntry
from monolith.streaming.lanes import Held, Inlet, Lane
from monolith.streaming.sample_block import SampleBlock
from monolith.streaming.units import look_like_ms, looks_like_seconds, unit_detail
from monolith.tables.batch import Ints

log = logging.getLogger(__name__)

_MANY = 16  # records, from which on arrays are quicker than a loop
_FEW = 64  # records, up to which a loop is quicker than to look for those that arrays could take


class Gate:
    """Owned by one `StepReader`, as are the joiner and the dead letters that it feeds."""

    def __init__(self, config: InputConfig, joiner: Joiner, letters: DeadLetters) -> None:
        self._config, self._joiner, self._letters = config, joiner, letters
        self._out_of_order_ms = round(config.max_out_of_order_s * 1000)
        self._max_jump_ms = round(config.max_jump_s * 1000)
        self.jumps = 0  # times that a lane's clock moved by more than max_jump_s, in this process

    def take(self, lane: Lane, items: Sequence[Polled], agree: int) -> int:
        """What ``lane`` gives next; ``agree`` of its records move its clock. Returns how many records it is."""
        for of_blocks, group in groupby(items, key=lambda item: isinstance(item, SampleBlock)):
            if of_blocks:
                for block in cast(Iterator[SampleBlock], group):
                    self._take_block(lane, block, agree)
            else:
                self._take_records(lane, [*cast(Iterator[Ready | EventBlock], group)], agree)
        return sum(1 if isinstance(item, Ready) else len(item) for item in items)

    def _take_records(self, lane: Lane, items: Sequence[Ready | EventBlock], agree: int) -> None:
        """Each in turn, as `_take_record`; many together where all of them go on to the joiner."""
        count = sum(map(_count, items))
        orders_ms = self._orders_ms(lane, items, agree) if count >= _MANY else None
        if orders_ms is not None:
            self._pass(lane, items, orders_ms)
        elif count > _FEW:  # the others of them may go on together
            for part in _halves(items, count // 2):
                self._take_records(lane, part, agree)
        else:
            for item in items:
                for one in readies(item) if isinstance(item, EventBlock) else [item]:
                    self._take_record(lane, one, agree)

    def _pass(self, lane: Lane, items: Sequence[Ready | EventBlock], orders_ms: Ints) -> None:
        """Events on to the joiner, the others to the dead letters; ``orders_ms`` (events,)."""
        place = 0
        for item in items:
            if isinstance(item, EventBlock):
                self._joiner.add_events(item, lane.number, orders_ms[place : place + len(item)])
                place += len(item)
            elif isinstance(item.event, EventError):
                self._refuse_event(lane, item.record, item.event)
            else:
                self._joiner.add(item.record, item.event, lane.number, int(orders_ms[place]))
                place += 1

    def _orders_ms(self, lane: Lane, items: Sequence[Ready | EventBlock], agree: int) -> Ints | None:
        """The order times of the events among ``items``, by which the lane's clock has moved then.

        None, and nothing has moved, where a record may have to be held, or refused for its time, or the clock jumps.
        """
        times_ms = _times_ms(items)
        if lane.held or not lane.clock.known or not len(times_ms):
            return None
        if self._config.check_time_unit and not look_like_ms(times_ms).all():
            return None
        clocks_ms = lane.clock.after_each(times_ms, agree)
        if clocks_ms is None or (np.diff(clocks_ms, prepend=lane.clock.ms) > self._max_jump_ms).any():
            return None
        if lane.in_order and (times_ms > clocks_ms + self._max_jump_ms).any():
            return None
        lane.clock.move(times_ms, clocks_ms, agree)
        lane.seen += len(times_ms)
        orders_ms: Ints = np.maximum(times_ms, clocks_ms - self._out_of_order_ms)
        return orders_ms

    def _take_block(self, lane: Lane, block: SampleBlock, agree: int) -> None:
        """Each row of ``block`` in turn, as `_date` takes a record of a stream without order in time."""
        assert not lane.in_order
        before_ms = lane.clock.ms
        clocks_ms = lane.clock.push_all(block.event_time_ms, agree)
        lane.seen += len(block)
        known = clocks_ms != WATERMARK_START
        floor_ms = np.where(known, clocks_ms, 0) - self._out_of_order_ms
        order_ms = np.where(known, np.maximum(block.event_time_ms, floor_ms), block.event_time_ms)
        self._joiner.add_block(block, lane.number, order_ms)
        moments = np.concatenate([[before_ms], clocks_ms])[np.concatenate([[before_ms != WATERMARK_START], known])]
        for i in np.flatnonzero(np.diff(moments) > self._max_jump_ms).tolist():
            self._tell_jump(lane, int(moments[i]), int(moments[i + 1]))
        if lane.held:
            self._judge(lane, agree)

    def _take_record(self, lane: Lane, item: Ready, agree: int) -> None:
        record, event = item.record, item.event
        if isinstance(event, EventError):
            self._refuse_event(lane, record, event)
        elif self._is_in_seconds(lane, event.event_time_ms):
            self._refuse_event(lane, record, _in_seconds(event))
        else:
            self._date(lane, record, event, agree)

    def _refuse_event(self, lane: Lane, record: Record, error: EventError) -> None:
        lane.misdated += error.reason == "time_unit"
        self._letters.add(lane.stream, record, error.reason, error.detail)

    def _is_in_seconds(self, lane: Lane, time_ms: int) -> bool:
        """Whether a time must be in seconds: it looks like them, and not like the lane's times so far."""
        if not (self._config.check_time_unit and looks_like_seconds(time_ms)):
            return False
        near_ms = lane.clock.ms if lane.clock.known or not lane.clock.recent else lane.clock.recent[-1]
        return abs(time_ms - near_ms) > self._max_jump_ms

    def _date(self, lane: Lane, record: Record, event: Decoded, agree: int) -> None:
        time_ms, before_ms = event.event_time_ms, lane.clock.ms
        lane.clock.push(time_ms, agree)
        lane.seen += 1
        if time_ms <= self._limit_ms(lane):
            # No later record of the lane is given an older order time, so none can be overtaken by the watermark.
            order_ms = max(time_ms, lane.clock.ms - self._out_of_order_ms)
            self._joiner.add(record, event, lane.number, order_ms)
        else:
            self._hold(lane, Held(record, event, lane.seen))
        if before_ms != WATERMARK_START and lane.clock.ms - before_ms > self._max_jump_ms:
            self._tell_jump(lane, before_ms, lane.clock.ms)
        if lane.held:
            self._judge(lane, agree)

    def _limit_ms(self, lane: Lane) -> int:
        """Up to which time the lane's records are believed."""
        if not lane.in_order:
            return WATERMARK_END
        return lane.clock.ms + self._max_jump_ms if lane.clock.known else WATERMARK_START

    def _hold(self, lane: Lane, held: Held) -> None:
        if lane.clock.known and not lane.held:
            log.warning(
                "event far ahead of its partition is held at=%s/%d/%d event_time_ms=%d clock_ms=%d ahead_s=%.0f: "
                "input.max_jump_s allows %g, input.jump_records=%d records that agree would move the clock",
                *(lane.stream, lane.partition, held.record.offset, held.time_ms, lane.clock.ms),
                *((held.time_ms - lane.clock.ms) / 1000, self._config.max_jump_s, self._config.jump_records),
            )
        lane.held.append(held)

    def _judge(self, lane: Lane, agree: int) -> None:
        """Let go of what the clock came up to, and refuse what it did not in as many records as it looks at."""
        limit_ms = self._limit_ms(lane)
        self._let_go(lane, limit_ms)
        if lane.clock.known:
            out = [held for held in lane.held if lane.seen - held.number >= 2 * agree - 1]
            self._refuse(lane, out)

    def _let_go(self, lane: Lane, until_ms: int) -> None:
        if any(held.time_ms <= until_ms for held in lane.held):
            for held in lane.held:
                if held.time_ms <= until_ms:
                    self._joiner.add(held.record, held.event, lane.number, held.time_ms)
            lane.held = [held for held in lane.held if held.time_ms > until_ms]

    def _refuse(self, lane: Lane, out: Sequence[Held]) -> None:
        for held in out:
            ahead_s = (held.time_ms - lane.clock.ms) / 1000
            detail = (
                f"event_time_ms {held.time_ms} is {ahead_s:.0f} s ahead of its partition's clock, {lane.clock.ms}; "
                f"input.max_jump_s allows {self._config.max_jump_s:g}, and no {self._config.jump_records} records "
                f"agreed on it (input.jump_records)"
            )
            self._letters.add(lane.stream, held.record, "ahead", detail)
        if out:
            lane.held = [held for held in lane.held if held not in out]

    def check_units(self, inlets: Sequence[Inlet], entry: StepEntry) -> None:
        """Look at a step that is to be written down, for streams that are in another unit from their beginning.

        Raises ConfigError for one whose first ``input.jump_records`` records, or all that it has, are so.
        """
        for inlet in inlets:
            lanes = list(inlet.lanes.values())
            if any(lane.seen for lane in lanes):
                continue
            taken = [item for lane in lanes for item in lane.ready.before(entry.ends[inlet.name][lane.partition])]
            if any(isinstance(item, EventBlock) and look_like_ms(item.event_time_ms).any() for item in taken):
                continue
            records = [one for item in taken for one in _one_by_one(item)]
            wrong = [error for item in records if (error := self._unit_error(lanes[0], item)) is not None]
            count = len(wrong) + sum(lane.misdated for lane in lanes)
            enough = entry.ended or count >= self._config.jump_records
            if (
                wrong
                and enough
                and not any(isinstance(item, SampleBlock) for item in taken)
                and all(self._unit_error(lanes[0], x) or isinstance(x.event, EventError) for x in records)
            ):
                raise ConfigError(f"{inlet.source.name}: all of its {count} records so far: {wrong[0].detail}")

    def _unit_error(self, lane: Lane, item: Ready) -> EventError | None:
        if isinstance(item.event, EventError):
            return item.event if item.event.reason == "time_unit" else None
        return _in_seconds(item.event) if self._is_in_seconds(lane, item.time_ms) else None

    def settle(self, lanes: Sequence[Lane], entry: StepEntry) -> None:
        """The step's records are taken: what is held up to its watermark goes on, its time has come.

        Where the streams have ended, what is still ahead of a clock is refused, and goes on where that clock is young:
        one that has not seen ``2 * agree - 1`` records may itself be wrong, and a few that are behind hold it back.
        """
        for lane in lanes:
            if entry.watermark_ms != WATERMARK_END:
                self._let_go(lane, max(entry.watermark_ms, entry.released_ms))
                continue
            if lane.clock.known and lane.seen >= 2 * entry.agree - 1:
                self._refuse(lane, list(lane.held))
            self._let_go(lane, WATERMARK_END)

    def newest_ms(self, lanes: Sequence[Lane], *, ended: bool) -> int:
        """The newest time that the lanes' clocks have reached; at an end without a clock what their records say."""
        newest_ms = max((lane.clock.ms for lane in lanes), default=WATERMARK_START)
        if newest_ms != WATERMARK_START or not ended:
            return newest_ms
        return end_of((time_ms for lane in lanes for time_ms in lane.clock.recent), self._max_jump_ms)

    def bury_late_actions(self) -> None:
        """Write what the joiner found late, where the job has such positives go to the dead letters."""
        for late in self._joiner.late_actions:
            event = late.event
            record = Record(None, encode(event), event.event_time_ms, late.ingestion_ms, late.partition, late.offset)
            shown_item = f"{shown(event.request_id)}/{shown(event.item_id)}"
            detail = f"{shown(event.action)} of {shown_item} came after join.window_s"
            self._letters.add("actions", record, "late_positive", detail)
        self._joiner.late_actions.clear()

    def _tell_jump(self, lane: Lane, before_ms: int, after_ms: int) -> None:
        self.jumps += 1
        log.warning(
            "a partition's clock jumps at=%s/%d from_ms=%d to_ms=%d by_s=%.0f: as many records agree as "
            "input.jump_records asks for; rows may expire by it",
            *(lane.stream, lane.partition, before_ms, after_ms, (after_ms - before_ms) / 1000),
        )


def _count(item: Ready | EventBlock) -> int:
    return len(item) if isinstance(item, EventBlock) else 1


def _halves(items: Sequence[Ready | EventBlock], first: int) -> list[list[Ready | EventBlock]]:
    """The first ``first`` records, and the others."""
    parts: list[list[Ready | EventBlock]] = [[], []]
    for item in items:
        if first <= 0 or _count(item) <= first:
            parts[first <= 0].append(item)
        elif isinstance(item, EventBlock):
            parts[0].append(item.rows(0, first))
            parts[1].append(item.rows(first, len(item)))
        first -= _count(item)
    return parts


def _times_ms(items: Sequence[Ready | EventBlock]) -> Ints:
    """The times of the events among ``items``."""
    if len(items) == 1 and isinstance(items[0], EventBlock):
        return items[0].event_time_ms
    times = np.empty(sum(map(_count, items)), np.int64)
    place = 0
    for item in items:
        if isinstance(item, EventBlock):
            times[place : place + len(item)] = item.event_time_ms
            place += len(item)
        elif not isinstance(item.event, EventError):
            times[place] = item.event.event_time_ms
            place += 1
    return times[:place]


def _one_by_one(item: Polled) -> Sequence[Ready]:
    """The records of ``item``, but for rows, none of which has a time in another unit."""
    if isinstance(item, Ready):
        return [item]
    return readies(item) if isinstance(item, EventBlock) else []


def _in_seconds(event: Decoded) -> EventError:
    return EventError("time_unit", unit_detail(event.event_time_ms))
