"""The native joiner against the one in Python: same samples, same counters, same times, whatever comes."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from batches import PlainJoiner, row_of
from hypothesis import given, settings
from hypothesis import strategies as st
from python_joiner import PythonJoiner

from monolith.config import JoinConfig, TaskConfig
from monolith.errors import CorruptError, VersionError
from monolith.events import WATERMARK_END, ActionEvent, Decoded, Joined, Record, Shown
from monolith.streaming.joiner import Joiner
from monolith.streaming.joiner_segments import read_joiner
from monolith.streaming.joiner_state import decode_joiner_state, encode_joiner_state
from monolith.streaming.sample_block import Pieces, SampleBlock

CONFIGS = st.builds(
    JoinConfig,
    positive_actions=st.sampled_from([[], ["like"]]),
    window_s=st.sampled_from([0.005, 0.02]),
    early_s=st.sampled_from([0.001, 0.01]),
    dedup_s=st.sampled_from([0.02, 0.05]),
    late_positives=st.sampled_from(["emit", "drop", "dead_letter"]),
    negative_rate=st.sampled_from([1.0, 0.5]),
)
PLAIN: list[TaskConfig] = []  # every action makes the one label
CLICK = TaskConfig(name="click", actions=["like"])
ANY = TaskConfig(name="any", actions=["like", "view"])
SECONDS = TaskConfig(name="seconds", loss="squared", value="watch", default=0.5)
PAID = TaskConfig(name="paid", loss="squared", value="watch")
TASKS = st.sampled_from([PLAIN, PLAIN, [CLICK], [CLICK, ANY], [PAID], [ANY, SECONDS, PAID], [CLICK, SECONDS]])
TIMES = st.integers(0, 60)
KEYS = st.sampled_from([("a", "i"), ("b", "i"), ("ai", ""), ("", "ai"), ("", "")])
ADDS = st.tuples(st.sampled_from(["shown", "like", "view", "watch", "joined"]), KEYS, TIMES, st.integers(0, 15))
ADVANCES = st.tuples(TIMES, st.integers(0, 20), st.integers(-5, 30))
RESTORES = st.sampled_from(["restore", "save", "save whole"])
ENDS = st.just("end")


def event_of(kind: str, key: tuple[str, str], time_ms: int, number: int, tasks: list[TaskConfig]) -> Decoded:
    if kind == "shown":
        return Shown(*key, time_ms, row_of(number, tasks))
    if kind == "joined":
        return Joined(*key, time_ms, row_of(number, tasks), float(number % 2), 0.25)
    is_taken = any(task.value == kind for task in tasks)
    return ActionEvent(*key, kind, time_ms, value=number / 2 if is_taken else msgspec.UNSET)


class Disk:
    """The files of the joiner's last save, as a snapshot would hold them."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.index = b""

    def save(self, joiner: Joiner, *, whole: bool) -> None:
        saved = joiner.save(whole=whole)
        assert not (whole and None in saved.files.values())
        self.files = {name: self.files[name] if data is None else data for name, data in saved.files.items()}
        self.index = saved.index

    def state(self) -> bytes:
        return encode_joiner_state(read_joiner(self.index, self.files.__getitem__))


@settings(max_examples=500, deadline=None)
@given(CONFIGS, TASKS, st.lists(ADDS | ADVANCES | RESTORES | ENDS, max_size=60))
def test_native_joiner_does_what_the_python_one_does(config, tasks, turns):
    shown: dict[str, list] = {"native": [], "python": []}

    def joiner_of(kind, name: str):
        def on_shown(before, event):
            shown[name].append((before, event.request_id, event.event_time_ms))

        return kind(config, on_shown, tasks)

    native, python, disk = joiner_of(PlainJoiner, "native"), joiner_of(PythonJoiner, "python"), Disk()
    watermark_ms = 0
    for offset, turn in enumerate(turns):
        if turn in ("save", "save whole"):
            disk.save(native, whole=turn == "save whole")
            assert disk.state() == native.state()
        elif turn == "restore":
            state, late_actions = native.state(), native.late_actions
            native = joiner_of(PlainJoiner, "native")
            native.restore(state)
            native.late_actions = late_actions  # taken before a state is kept, and so no part of it
            assert native.state() == state
        elif turn == "end":
            assert native.advance(WATERMARK_END, newest_ms=watermark_ms) == python.advance(
                WATERMARK_END, newest_ms=watermark_ms
            )
        elif len(turn) == 4:
            kind, key, time_ms, number = turn
            event = event_of(kind, key, time_ms, number, tasks)
            stream = {"shown": 0, "joined": 2}.get(kind, 1)
            record = Record(None, b"", time_ms, 100 + offset, number % 2, offset)
            for joiner in (native, python):
                joiner.add(record, event, stream, time_ms + number % 3)
        else:
            ahead, released, newest = turn
            watermark_ms = max(watermark_ms, ahead)
            times = {"released_ms": watermark_ms + released, "newest_ms": watermark_ms + newest}
            assert native.advance(watermark_ms, **times) == python.advance(watermark_ms, **times)
        assert native.counters == python.counters
        assert native.pending_ms() == python.pending_ms()
        assert native.due_ms() >= python.due_ms()  # which may name the timer of something that is no longer there
        assert native.late_actions == python.late_actions
        assert shown["native"] == shown["python"]


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes_are_no_state(data):
    joiner = PlainJoiner(JoinConfig())
    before = joiner.state()
    try:
        joiner.restore(data)
    except (CorruptError, VersionError):
        assert joiner.state() == before


def test_every_cut_column_of_a_state_is_refused():
    joiner = PlainJoiner(JoinConfig())
    for offset, event in enumerate((Shown("a", "i", 5, row_of(1)), ActionEvent("b", "i", "like", 5))):
        joiner.add(Record(None, b"", 5, 5, 0, offset), event, offset, 5)
    joiner.advance(6)
    joiner.add(Record(None, b"", 9, 9, 0, 2), Shown("c", "i", 9, row_of(2)), 0, 9)
    state = decode_joiner_state(joiner.state())
    for field in ("pending", "waiting", "parked"):
        columns = getattr(state, field)
        for place, column in enumerate(columns):
            cut = (*columns[:place], column[:-1], *columns[place + 1 :])
            with pytest.raises(CorruptError, match="does not fit together"):
                PlainJoiner(JoinConfig()).restore(encode_joiner_state(msgspec.structs.replace(state, **{field: cut})))


@pytest.mark.parametrize("wrong", ["labels", "heads", "lengths of bag data", "key lengths", "negative length"])
def test_block_whose_columns_do_not_fit_together_is_refused_and_none_of_it_waits(wrong):
    joiner = Joiner(JoinConfig(), 8)
    count = np.int64([3, 3])
    block = SampleBlock(
        partition=0,
        offset=0,
        event_time_ms=count,
        labels=np.zeros(3 if wrong == "labels" else 2, np.float32),
        heads=np.zeros((1 if wrong == "heads" else 2, 8), np.uint8),
        bag_data=Pieces(np.zeros(8, np.uint8), np.int64([8, 1] if wrong == "lengths of bag data" else [0, 8])),
        keys=Pieces(
            np.zeros(4, np.uint8), np.int64({"key lengths": [4], "negative length": [-1, 2, 2, 1]}.get(wrong, [1] * 4))
        ),
    )
    with pytest.raises(ValueError, match="length"):
        joiner.add_block(block, 0, count)
    assert joiner.pending_bytes == 0
