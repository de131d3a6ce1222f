"""Labels of joined streams with several tasks, or with values: from events on the wire to a step's batch."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest

from monolith.config import InputConfig, JobConfig, JoinConfig, TableConfig, TaskConfig
from monolith.errors import EventError
from monolith.events import WATERMARK_END, ActionEvent, FeatureEvent, Record
from monolith.streaming.codec import FeatureDecoder, decode, encode
from monolith.streaming.joined import JoinedSamples
from monolith.streaming.joiner import Joiner
from monolith.streaming.labels import LabelBlocks

CLICK, BUY = TaskConfig(name="click", actions=["click"]), TaskConfig(name="buy", actions=["buy"], weight=2.0)
WATCH = TaskConfig(name="watch_s", loss="squared", value="watch")
ZERO = msgspec.structs.replace(WATCH, default=0.0)


def job_of(*tasks: TaskConfig, **join: object) -> JobConfig:
    return JobConfig(
        name="t",
        input=InputConfig(features="memory://f", actions="memory://a"),
        tables=[TableConfig(name="user", dim=5)],
        labels=list(tasks),
        join=JoinConfig(**{"window_s": 10.0, "early_s": 5.0, "dedup_s": 30.0, **join}),
    )


class Stream:
    """Events of one job on their way through decoder and joiner; times in seconds."""

    def __init__(self, job: JobConfig) -> None:
        self.decoder, self.blocks = FeatureDecoder(job), LabelBlocks(job)
        self.joiner = Joiner(job.join, self.blocks.size + self.decoder.schema.head_bytes, None, job.labels)
        self.offset = 0

    def show(self, request: str, at_s: float) -> None:
        self._add("features", FeatureEvent(request, "i", round(1000 * at_s), {"user": 7}))

    def act(self, request: str, at_s: float, action: str, value: object = msgspec.UNSET) -> None:
        self._add("actions", ActionEvent(request, "i", action, round(1000 * at_s), value=value))

    def _add(self, stream, event) -> None:
        record = Record(None, encode(event), event.event_time_ms, event.event_time_ms, 0, self.offset)
        self.offset += 1
        place = 0 if stream == "features" else 1
        self.joiner.add(record, self.decoder.decode(record, stream), place, event.event_time_ms)

    def until(self, at_s: float) -> JoinedSamples:
        return self.joiner.advance(WATERMARK_END if math.isinf(at_s) else round(1000 * at_s))

    def told(self, at_s: float = math.inf) -> list[tuple[str, list[float], list[float], bool]]:
        """Request, labels and weights of each sample up to a time, and whether it is late."""
        samples = self.until(at_s)
        batch = samples.batch(self.decoder.schema, "user", self.blocks)
        weights = np.ones_like(batch.labels) if batch.label_weights is None else batch.label_weights
        rows = zip(samples.keys, batch.labels.tolist(), weights.tolist(), batch.late.tolist(), strict=True)
        return [(key[0], *rest) for key, *rest in rows]


def test_a_sample_comes_at_the_windows_end_with_all_labels_that_came_until_then():
    stream = Stream(job_of(CLICK, BUY))
    stream.show("a", 1)
    stream.act("a", 2, "click")
    assert stream.told(10.999) == []
    assert stream.told(11) == [("a", [1, 0], [1, 1], False)]


def test_a_sample_comes_at_once_when_every_task_has_its_action():
    stream = Stream(job_of(CLICK, BUY))
    stream.show("a", 1)
    stream.act("a", 2, "click")
    stream.act("a", 3, "buy")
    assert stream.told(3) == [("a", [1, 1], [1, 1], False)]


def test_one_task_that_names_its_action_is_as_one_with_positive_actions():
    named, positive = Stream(job_of(CLICK)), Stream(job_of(TaskConfig(name="click"), positive_actions=["click"]))
    for stream in (named, positive):
        stream.show("a", 1)
        stream.show("b", 1)
        stream.act("b", 2, "other")
        stream.act("a", 2, "click")
        assert stream.told() == [("a", [1], [1], False), ("b", [0], [1], False)]
    assert named.joiner.state() == positive.joiner.state()


@pytest.mark.parametrize(("task", "label", "weight"), [(WATCH, 0, 0), (ZERO, 0, 1)])
def test_a_value_is_the_label_and_without_one_the_default_counts_or_there_is_no_label(task, label, weight):
    stream = Stream(job_of(CLICK, task))
    stream.show("a", 1)
    stream.show("b", 1)
    stream.act("a", 2, "watch", 3.25)
    assert stream.told() == [("a", [0, 3.25], [1, 1], False), ("b", [0, label], [1, weight], False)]


def test_the_first_value_counts_and_a_repeat_is_a_duplicate():
    stream = Stream(job_of(CLICK, WATCH))
    stream.show("a", 1)
    stream.act("a", 2, "watch", 3)
    stream.act("a", 3, "watch", 4)
    assert stream.told() == [("a", [0, 3], [1, 1], False)]
    assert stream.joiner.counters.duplicate_actions == 1


def test_one_action_may_make_several_labels():
    stream = Stream(job_of(CLICK, TaskConfig(name="any", actions=["click", "buy"]), BUY))
    stream.show("a", 1)
    stream.act("a", 2, "click")
    stream.act("a", 3, "buy")
    assert stream.told(3) == [("a", [1, 1, 1], [1, 1, 1], False)]


def test_several_actions_wait_for_their_features_each_for_its_own_early_s():
    stream = Stream(job_of(CLICK, BUY, WATCH))
    stream.act("a", 1, "click")
    stream.act("a", 2, "buy")
    stream.act("a", 4, "watch", 9)
    stream.act("a", 4, "watch", 8)
    stream.show("a", 7)
    assert stream.told() == [("a", [0, 1, 9], [1, 1, 1], False)]
    assert (stream.joiner.counters.unmatched_actions, stream.joiner.counters.duplicate_actions) == (1, 1)


def test_a_late_action_makes_a_sample_of_its_own_label_alone():
    stream = Stream(job_of(CLICK, BUY, WATCH))
    stream.show("a", 1)
    stream.act("a", 2, "click")
    stream.act("a", 12, "watch", 5)
    stream.act("a", 13, "buy")
    stream.act("a", 14, "buy")
    assert stream.told() == [
        ("a", [1, 0, 0], [1, 1, 0], False),
        ("a", [0, 0, 5], [0, 0, 1], True),
        ("a", [0, 1, 0], [0, 1, 0], True),
    ]
    assert (stream.joiner.counters.late, stream.joiner.counters.duplicate_actions) == (2, 1)


def test_late_actions_for_the_dead_letters_keep_the_value_that_a_task_takes():
    stream = Stream(job_of(CLICK, WATCH, late_positives="dead_letter"))
    stream.show("a", 1)
    stream.act("a", 12, "watch", 5)
    stream.act("a", 13, "click", "no number, and nobody's")
    assert stream.told() == [("a", [0, 0], [1, 0], False)]
    assert [late.event for late in stream.joiner.late_actions] == [
        ActionEvent("a", "i", "watch", 12_000, value=5.0),
        ActionEvent("a", "i", "click", 13_000),
    ]


@pytest.mark.parametrize("samples", [0, 1, 2])
def test_arrays_of_a_batch_of_any_size_are_taken_by_torch(samples):
    torch = pytest.importorskip("torch")
    stream = Stream(job_of(CLICK, BUY, negative_rate=0.5))
    for i in range(samples):
        stream.show(f"r{i}", 1)
        stream.act(f"r{i}", 2, "click")
    batch = stream.until(math.inf).batch(stream.decoder.schema, "user", stream.blocks)
    assert torch.tensor(batch.labels).tolist() == [[1.0, 0.0]] * samples
    assert batch.label_weights is None or torch.tensor(batch.label_weights).shape == (samples, 2)
    assert batch.labels.strides[0] % batch.labels.itemsize == 0


def test_a_sample_without_any_action_is_a_negative_and_weighs_what_sampling_left_out():
    stream = Stream(job_of(CLICK, BUY, negative_rate=0.25))
    for i in range(2000):
        stream.show(f"r{i}", 1)
    for i in range(200):
        stream.act(f"r{i}", 2, "click")
    batch = stream.until(math.inf).batch(stream.decoder.schema, "user", stream.blocks)
    clicked = batch.labels[:, 0] == 1
    assert clicked.sum() == 200  # none of them is thinned
    assert (batch.label_weights[clicked] == 1).all()
    assert (batch.label_weights[~clicked] == 4).all()
    assert 0.2 < (~clicked).sum() / 1800 < 0.3
    assert (batch.rates == 1).all()
    counters = stream.joiner.counters
    assert (counters.positives, counters.negatives + counters.sampled_out) == (200, 1800)


@pytest.mark.parametrize(
    ("task", "value", "says"),
    [
        (
            WATCH,
            msgspec.UNSET,
            "task 'watch_s' takes the value of 'watch', and this one has none: send value, a number",
        ),
        (WATCH, None, "and this one has none"),
        (WATCH, "5", "task 'watch_s': the label is '5', allowed: -1000000 to 1000000"),
        (WATCH, 1e7, "allowed: -1000000 to 1000000"),
        (TaskConfig(name="thumb", value="watch"), 0.5, "task 'thumb': the label is 0.5, allowed: 0 and 1"),
    ],
)
def test_an_action_whose_value_a_task_cannot_take_goes_to_the_dead_letters(task, value, says):
    with pytest.raises(EventError) as error:
        Stream(job_of(task)).act("a", 1, "watch", value)
    assert error.value.reason == "value"
    assert says in error.value.detail


@pytest.mark.parametrize("value", ["text", [1], {"a": 1}, None, 1e300])
def test_a_value_that_no_task_takes_is_not_looked_at(value):
    stream = Stream(job_of(CLICK, BUY))
    stream.show("a", 1)
    stream.act("a", 2, "click", value)
    assert stream.told() == [("a", [1, 0], [1, 1], False)]


@pytest.mark.parametrize("form", ["msgpack", "json"])
def test_an_actions_value_survives_the_wire_and_one_without_is_as_before(form):
    for event in (ActionEvent("r", "i", "watch", 5, value=2.5), ActionEvent("r", "i", "click", 5)):
        assert decode(encode(event, form)) == event
    assert b"value" not in encode(ActionEvent("r", "i", "click", 5), form)


def test_gathered_labels_outlive_a_restore():
    job = job_of(CLICK, BUY, WATCH)
    before = Stream(job)
    before.show("a", 1)
    before.act("a", 2, "click")
    before.act("b", 2, "watch", 6)
    before.act("b", 2, "buy")
    before.until(3)
    before.act("a", 4, "watch", 7)
    after = Stream(job)
    after.offset = before.offset
    after.joiner.restore(before.joiner.state())
    assert after.joiner.state() == before.joiner.state()
    after.show("b", 5)
    after.act("a", 5, "click")
    assert after.told() == [("a", [1, 0, 7], [1, 1, 1], False), ("b", [0, 1, 6], [1, 1, 1], False)]
    assert after.joiner.counters.duplicate_actions == 1
