"""Whatever a few wrong event times say, the others train as if those had never been sent.

Good streams of several partitions, poisoned anywhere by fewer records than agree on a jump, cut into steps anywhere,
silent now and then, killed and restored, are held against the same streams without the poison.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from random import Random

from batches import seen
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from monolith.config import InputConfig, JobConfig, JoinConfig, TableConfig, TrainConfig
from monolith.events import ActionEvent, FeatureEvent
from monolith.streaming import memory
from monolith.streaming.codec import encode
from monolith.streaming.deadletters import DeadLetters
from monolith.streaming.inlets import open_inlets
from monolith.streaming.journal import Journal
from monolith.streaming.steps import StepReader

START_MS = 1_700_000_000_000
AGREE, MAX_JUMP_S = 3, 100.0
OUT_OF_ORDER_MS = 300
HOUR_MS, YEAR_MS = 3_600_000, 365 * 86_400_000
AHEAD_MS = [1, 50, 2_000, 99_000, 599_000, 3_500_000, 30 * HOUR_MS, YEAR_MS, 25 * YEAR_MS]


@dataclass(frozen=True)
class Put:
    """One record on its way into a stream."""

    stream: str
    partition: int
    event: FeatureEvent | ActionEvent


def job(*, follow: bool) -> JobConfig:
    return JobConfig(
        name="job",
        input=InputConfig(
            max_reject_share=1.0,
            features="memory://poison-features",
            actions="memory://poison-actions",
            follow=follow,
            jump_records=AGREE,
            max_jump_s=MAX_JUMP_S,
            max_out_of_order_s=OUT_OF_ORDER_MS / 1000,
        ),
        join=JoinConfig(window_s=20.0, early_s=5.0, dedup_s=60.0),
        train=TrainConfig(step_linger_s=0.0, step_records=5),
        tables=[TableConfig(name="user", dim=4)],
    )


def good_streams(rng: Random) -> list[Put]:
    """Impressions and their clicks in the order of arrival: by event time, up to the allowance that the job makes."""
    partitions = rng.randint(1, 3)
    now, puts = START_MS, []
    for i in range(rng.randint(1, 40)):
        now += rng.randint(0, 3000)
        shown = FeatureEvent(f"r{i}", "i", now, {"user": i})
        puts.append((now + rng.randint(0, OUT_OF_ORDER_MS), Put("features", i % partitions, shown)))
        if rng.random() < 0.5:
            at = now + rng.randint(0, 18_000)
            click = ActionEvent(f"r{i}", "i", "click", at)
            puts.append((at + rng.randint(0, OUT_OF_ORDER_MS), Put("actions", rng.randrange(partitions), click)))
    return [put for _, put in sorted(puts, key=lambda pair: pair[0])]


def poisoned(rng: Random, good: list[Put]) -> list[Put]:
    """``good`` with records of wrong times anywhere, fewer than AGREE among any 2 * AGREE - 1 of a partition."""
    puts = list(good)
    for k in range(rng.randint(1, 12)):
        at = rng.randint(0, len(puts))
        now = max((put.event.event_time_ms for put in puts[:at] if not is_poison(put)), default=START_MS)
        time_ms = max(0, now + rng.choice(AHEAD_MS) * rng.choice([1, 1, 1, -1]))
        request = f"poison{rng.randint(0, k)}"  # an impression and its click may both be wrong
        if rng.random() < 0.5:
            wrong = Put("features", rng.randrange(3), FeatureEvent(request, "i", time_ms, {"user": -1}))
        else:
            wrong = Put("actions", rng.randrange(3), ActionEvent(request, "i", "click", time_ms))
        tried = [*puts[:at], wrong, *puts[at:]]
        puts = puts if is_too_much(tried) else tried
    return puts


def is_poison(put: Put) -> bool:
    return put.event.request_id.startswith("poison")


def is_too_much(puts: list[Put]) -> bool:
    lanes: dict[tuple[str, int], list[bool]] = {}
    for put in puts:
        lanes.setdefault((put.stream, put.partition), []).append(is_poison(put))
    return any(sum(lane[i : i + 2 * AGREE - 1]) >= AGREE for lane in lanes.values() for i in range(len(lane)))


class Run:
    """A job over memory streams that is fed, cut, silenced, killed and restored anywhere."""

    def __init__(self, folder: Path, rng: Random, *, silent: bool) -> None:
        self.rng, self.silent, self.now = rng, silent, 1000.0
        self.topics = {}
        for name in ("features", "actions"):
            memory.forget(f"poison-{name}")
            self.topics[name] = memory.topic(f"poison-{name}", 3)
        self.folder = folder
        self.samples: dict[int, list] = {}
        self.watermarks_ms: list[int] = []
        self.reader = self.open(follow=True)
        self.states: list[tuple[int, bytes]] = []

    def open(self, *, follow: bool) -> StepReader:
        config = job(follow=follow)
        journal, letters = Journal(self.folder), DeadLetters(None)
        return StepReader(config, open_inlets(config), journal, letters, clock=lambda: self.now)

    def step(self, timeout_s: float = 0.0) -> bool:
        """Whether there was a step, and another may follow."""
        step = self.reader.next(timeout_s)
        if step is None:
            return False
        if step.number in self.samples:
            assert self.samples[step.number] == seen(step), "a step that is run again makes the same samples"
        self.samples[step.number] = seen(step)
        self.watermarks_ms.append(step.watermark_ms)
        return not step.ended

    def kill(self) -> None:
        """Go on from some state of before, or from nothing."""
        self.reader.close()
        number, state = self.rng.choice([(0, b""), *self.states])
        self.reader = self.open(follow=True)
        if number:
            self.reader.restore(state)
            assert self.reader.state() == state

    def feed(self, puts: list[Put]) -> list:
        for put in puts:
            time_ms = put.event.event_time_ms
            self.topics[put.stream].put(put.partition, None, encode(put.event), time_ms, time_ms)  # as CreateTime does
            what = self.rng.choice(["go on", "go on", "step", "save", "kill", "silence"])
            if what == "silence" and self.silent:
                while self.step():
                    pass
                self.now += 1.0
                while self.step():
                    pass
            elif what == "kill":
                self.kill()
            elif what != "go on":
                self.step()
                if what == "save":
                    self.states.append((len(self.states) + 1, self.reader.state()))
        self.reader.close()
        self.reader = self.open(follow=False)
        while self.step(timeout_s=10.0):
            pass
        self.reader.close()
        return [sample for number in sorted(self.samples) for sample in self.samples[number]]


def brief(samples) -> list[tuple[str, float, bool]]:
    return [(s.request_id, s.label, s.late) for s in samples if not s.request_id.startswith("poison")]


def both(seed: int, *, silent: bool) -> tuple[list, list, Run, list[Put]]:
    """The samples of a good stream, and of the same poisoned, each in a run of its own."""
    rng = Random(seed)
    good = good_streams(rng)
    bad = poisoned(rng, good)
    with tempfile.TemporaryDirectory() as folder:
        clean = Run(Path(folder) / "clean", rng, silent=silent).feed(good)
        run = Run(Path(folder) / "bad", rng, silent=silent)
        return clean, run.feed(bad), run, good


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32))
def test_poisoned_stream_trains_the_samples_of_the_good_one_in_the_same_order(seed):
    clean, bad, _, _ = both(seed, silent=False)
    assert brief(bad) == brief(clean)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32))
def test_silences_and_poison_together_change_no_label(seed):
    clean, bad, _, good = both(seed, silent=True)
    assert Counter(brief(bad)) == Counter(brief(clean))
    clicked = {put.event.request_id for put in good if put.stream == "actions"}
    shown = {put.event.request_id for put in good if put.stream == "features"}
    assert Counter(brief(bad)) == Counter((request, float(request in clicked), False) for request in shown)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32))
@example(277286044)  # three of five records are poison, and no partition has enough of them for a clock
def test_no_clock_that_tables_see_goes_beyond_the_good_times(seed):
    _, bad, run, good = both(seed, silent=True)
    newest_ms = max(put.event.event_time_ms for put in good)
    lanes = run.reader._runner.lanes()
    if not any(lane.clock.known for lane in lanes):  # too few records to tell more
        newest_ms += round(MAX_JUMP_S * 1000)
        assume(2 * len(good) > sum(len(lane.clock.recent) for lane in lanes))  # of a few, most may be poison
    assert all(sample.event_time_ms <= newest_ms for sample in bad)
    assert all(ms <= newest_ms for ms in run.watermarks_ms)
