"""The joiner against a plain model, whatever the interleaving of the partitions and wherever it is restored."""

from __future__ import annotations

from batches import Plain, PlainJoiner, row_of
from hypothesis import given, settings
from hypothesis import strategies as st

from monolith.config import JoinConfig
from monolith.events import WATERMARK_END, WATERMARK_START, ActionEvent, Record, Shown

CONFIG = JoinConfig(window_s=0.010, early_s=0.004, dedup_s=0.025, negative_rate=1.0)
LANES = 4  # two partitions of features, then two of actions


def model(events: list[tuple[tuple[int, int, int, int], Shown | ActionEvent]]) -> list[tuple[str, float, bool]]:
    """What the joiner promises, told once more: one event after another, looking at every key at every instant."""
    out, shown, parked = [], {}, {}

    def tick(now: int) -> None:
        """Everything whose time is before ``now``, instant by instant."""
        while True:
            due = [(e["deadline"], 0, e["at"], k) for k, e in shown.items() if e["open"]]
            due += [(p["until"], 1, p["at"], k) for k, p in parked.items()]
            due += [(e["forget"], 2, e["at"], k) for k, e in shown.items() if not e["open"]]
            if not due or min(due)[0] >= now:
                return
            _, kind, _, key = min(due)
            if kind == 0:
                shown[key]["open"] = False
                out.append((key, 0.0, False))
            else:
                del (parked if kind == 1 else shown)[key]

    for (order, _, partition, offset), event in sorted(events, key=lambda pair: pair[0]):
        tick(order)
        key, at = event.request_id, (partition, offset)
        if isinstance(event, Shown):
            if key in shown:
                continue
            deadline = max(event.event_time_ms + 10, order)
            entry = {"deadline": deadline, "forget": max(event.event_time_ms + 25, deadline), "open": True, "at": at}
            shown[key] = entry
            if parked.pop(key, None):
                out.append((key, 1.0, False))
                entry |= {"open": False, "positive": True, "forget": max(entry["forget"], order + 25)}
        elif key not in shown:
            parked.setdefault(key, {"until": order + 4, "at": at})
        elif not shown[key].get("positive"):
            entry = shown[key]
            out.append((key, 1.0, not entry["open"]))
            entry |= {"open": False, "positive": True, "forget": max(entry["forget"], order + 25)}
    tick(WATERMARK_END)
    return out


@st.composite
def lanes(draw):
    """For each lane a list of (time, request); times mostly rise, now and then they fall back."""
    result = []
    for _ in range(LANES):
        steps = draw(st.lists(st.tuples(st.integers(-3, 8), st.sampled_from("abcd")), max_size=12))
        now, lane = 20, []
        for step, request in steps:
            now = max(0, now + step)
            lane.append((now, request))
        result.append(lane)
    return result


def events_of(lane: int, rows) -> list[tuple[int, Record, Shown | ActionEvent]]:
    """(order time, record, event) of one lane: the order time never falls within a lane."""
    newest, result = WATERMARK_START, []
    for offset, (time, request) in enumerate(rows):
        event = Shown(request, "i", time, row_of(offset)) if lane < 2 else ActionEvent(request, "i", "click", time)
        newest = max(newest, time)
        result.append((newest, Record(None, b"", time, time, lane % 2, offset), event))
    return result


def run(lane_rows, order: list[int], saves: set[int]) -> list[Plain]:
    """Feed the lanes in the given interleaving, the watermark following as a reader would move it."""
    joiner, samples = PlainJoiner(CONFIG), []
    queues = [events_of(lane, rows) for lane, rows in enumerate(lane_rows)]
    clocks: list[int | None] = [None] * LANES
    for turn, pick in enumerate(order):
        lane = next((pick + i) % LANES for i in range(LANES) if queues[(pick + i) % LANES])
        order_ms, record, event = queues[lane].pop(0)
        joiner.add(record, event, int(lane >= 2), order_ms)
        clocks[lane] = order_ms
        open_clocks = [clocks[i] for i in range(LANES) if queues[i]]
        if None not in open_clocks:
            watermark = min(open_clocks, default=max(c for c in clocks if c is not None)) - 1
            samples += joiner.advance(watermark)
        if turn in saves:
            state = joiner.state()
            joiner = PlainJoiner(CONFIG)
            joiner.restore(state)
            assert joiner.state() == state
    return samples + joiner.advance(WATERMARK_END)


def timeless(samples: list[Plain]) -> list[Plain]:
    """Without the time of ingestion, which for negatives is that of the newest record there was."""
    return [sample._replace(ingestion_time_ms=0) for sample in samples]


@settings(max_examples=300, deadline=None)
@given(st.data(), lanes())
def test_output_depends_neither_on_the_interleaving_nor_on_restores(data, lane_rows):
    total = sum(map(len, lane_rows))
    orders = st.lists(st.integers(0, LANES - 1), min_size=total, max_size=total)
    saves = st.sets(st.integers(0, max(total - 1, 0)), max_size=4)
    first = run(lane_rows, data.draw(orders), set())
    second = run(lane_rows, data.draw(orders), data.draw(saves))
    assert timeless(first) == timeless(second)


@settings(max_examples=300, deadline=None)
@given(st.data(), lanes())
def test_output_is_that_of_the_model(data, lane_rows):
    total = sum(map(len, lane_rows))
    order = data.draw(st.lists(st.integers(0, LANES - 1), min_size=total, max_size=total))
    everything = [
        ((order_ms, int(lane >= 2), record.partition, record.offset), event)
        for lane, rows in enumerate(lane_rows)
        for order_ms, record, event in events_of(lane, rows)
    ]
    expected = model(everything)
    assert [(s.request_id, s.label, s.late) for s in run(lane_rows, order, set())] == expected


@settings(max_examples=100, deadline=None)
@given(lanes())
def test_joiners_that_hold_the_same_save_the_same_bytes(lane_rows):
    forward, backward = PlainJoiner(CONFIG), PlainJoiner(CONFIG)
    items = [(lane, item) for lane, rows in enumerate(lane_rows) for item in events_of(lane, rows)]
    for joiner, order in ((forward, items), (backward, items[::-1])):
        for lane, (order_ms, record, event) in order:
            joiner.add(record, event, int(lane >= 2), order_ms)
        joiner.advance(30)
    assert forward.state() == backward.state()
