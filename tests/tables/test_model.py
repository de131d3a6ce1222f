"""All operations in any order against a plain model in Python: same rows, same bits, same deltas, same files.

hypothesis looks for short sequences that tell the two apart. The long run lives many lives of thousands of ids:

    MONOLITH_MODEL_OPS=10000000 pytest tests/tables/test_model.py -k long

counts ids through every call (1 for calls without ids) and ends after so many; MONOLITH_MODEL_SEED=N chooses others. A
failure names the seed whose first life it is.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

import numpy as np
import pytest
import reference
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from table_pair import EventTimes, Pair

from monolith.tables import (
    FeatureRules,
    TableConfig,
    absent,
    admission,
    eviction,
    expiry,
    initializers,
    optimizers,
)
from monolith.tables.buckets import Buckets
from monolith.tables.feature_runs import FeatureRuns
from monolith.tables.split import Owners

# Thirty ids, eight of them in one bucket, which holds two counters.
_MANY = np.arange(60_000)
POOL = [0, -1, 2**63 - 1, -(2**63), *range(1, 19), *_MANY[reference.bucket(_MANY) == 5][:8].tolist()]
TTL_MS = 5000


def mixed(rows: eviction.Rows) -> np.ndarray:
    """A score of everything that the model knows of a row."""
    lived = rows.last_seen_ms.astype(np.float64) - rows.admitted_ms.astype(np.float64)  # as integers it may overflow
    return rows.ids % 5 + rows.uses + lived / 1024


eviction.register("mixed", mixed)

# --- the choices: each list is drawn from by hypothesis and by the long run -------------------------------------------

DIMS = [1, 3, 16, 17]
OPTIMIZERS = [
    optimizers.SGD(lr=0.1),
    optimizers.Adagrad(weight_decay=0.1),
    optimizers.RowWiseAdagrad(),
    optimizers.Adam(weight_decay=0.01),
    optimizers.Adam(steps="row"),
    optimizers.FTRL(l1=0.05, schedule=optimizers.Schedule(warmup_steps=3, decay="inverse_sqrt")),
    optimizers.RowWiseAdam(clip_row_norm=0.5, steps="row"),
    optimizers.RowWiseAdamW(clip_row_norm=0.5),
]
ADMISSIONS = [
    admission.Always(),
    admission.MinCount(1),
    admission.MinCount(2, max_counters=1500),
    admission.MinCount(3, half_life_s=2.0, max_counters=1500),
    admission.Probability(0.4, max_counters=1500),
    admission.Probability(0.4, half_life_s=2.0, max_counters=1500),
    admission.Never(),
]
TTL_S = TTL_MS / 1000
EXPIRIES = [expiry.Forever(), expiry.Idle(TTL_S), expiry.Absolute(TTL_S), expiry.Idle(TTL_S, max_age_s=7.0)]
PER_FEATURE = [
    {},
    {"b": FeatureRules(admission.MinCount(2, max_counters=1500), expiry.Absolute(3.0))},
    {"a": FeatureRules(expiry=expiry.Idle(2.0)), "b": FeatureRules(admission.Probability(0.5, half_life_s=1.0))},
]
EVICTIONS = [
    eviction.Unlimited(),
    eviction.LRU(max_rows=7),
    eviction.LRU(max_rows=600),
    eviction.LFU(max_rows=9, half_life_s=3.0),
    eviction.LFU(max_rows=500, half_life_s=None),
    eviction.Score("mixed", max_rows=8),
]
ABSENTS = [
    absent.AbsentZeros(),
    absent.AbsentZeros(),
    absent.HashedTail(rows=1, start_from_tail=True),
    absent.HashedTail(rows=5, start_from_tail=True),
    absent.HashedTail(rows=3, start_from_tail=False),
    absent.HashedTail(rows=1030, start_from_tail=False),
]
INITIALIZERS = [initializers.Uniform(), initializers.TruncatedNormal(), initializers.Zeros()]
STORAGES = ["float32", "float32", "bfloat16", "float16"]
CHOICES: dict[str, list[Any]] = {
    "dim": DIMS,
    "optimizer": OPTIMIZERS,
    "admission": ADMISSIONS,
    "expiry": EXPIRIES,
    "features": [["a", "b"]],
    "per_feature": PER_FEATURE,
    "eviction": EVICTIONS,
    "absent": ABSENTS,
    "initializer": INITIALIZERS,
    "storage": STORAGES,
    "seed": [0, 7],
}

# --- short and searched -----------------------------------------------------------------------------------------------

CONFIGS = st.builds(TableConfig, name=st.just("user"), **{key: st.sampled_from(of) for key, of in CHOICES.items()})
BATCHES = st.lists(st.sampled_from(POOL), max_size=12)
TIMES = st.integers(0, 20_000)
HOW = st.sampled_from(["none", "one", "each"])


def division(count: int, width: int) -> list[Buckets]:
    """``count`` parts of the buckets; each has every ``count``-th run of ``width``, or one run of them."""
    owners = Owners(np.arange(1024) // width % count, count) if width else Owners.evenly(count)
    return [owners.buckets(owner) for owner in range(count)]


DIVISIONS = st.builds(division, st.integers(1, 4), st.sampled_from([0, 0, 1, 100]))


class TableMachine(RuleBasedStateMachine):
    """Draws what to do, and has a `Pair` do it."""

    @initialize(config=CONFIGS)
    def start(self, config: TableConfig) -> None:
        self.pair = Pair(config)
        self.divided = False

    @rule(ids=BATCHES, how=HOW, data=st.data())
    def observe(self, ids: list[int], how: str, data: Any) -> None:
        self.pair.observe(ids, draw_times(ids, how, data), data.draw(st.sampled_from(runs_of(len(ids)))))

    @rule(first=st.sampled_from([100, 300, 600]), t=TIMES)
    def crowd(self, first: int, t: int) -> None:
        """So many ids that a sample is not the whole table."""
        self.pair.observe(range(first, first + 400), t)

    @rule(ids=BATCHES, how=HOW, seed=st.integers(0, 99), data=st.data())
    def apply_gradients(self, ids: list[int], how: str, seed: int, data: Any) -> None:
        self.pair.apply_gradients(ids, self.grads(ids, seed), draw_times(ids, how, data))

    @rule(ids=BATCHES, how=HOW, seed=st.integers(0, 99), data=st.data())
    def step(self, ids: list[int], how: str, seed: int, data: Any) -> None:
        feature = data.draw(st.sampled_from(runs_of(len(ids))))
        self.pair.step(ids, self.grads(ids, seed), draw_times(ids, how, data), feature)

    def grads(self, ids: list[int], seed: int) -> np.ndarray:
        shape = (len(ids), self.pair.table.dim)
        return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)

    @rule(t=TIMES)
    def advance(self, t: int) -> None:
        self.pair.advance(t)

    @rule(buckets=st.sampled_from([0, 1, 100, 700, 1024]), max_rows=st.sampled_from([1, 3, 40, 10**6]))
    def sweep(self, buckets: int, max_rows: int) -> None:
        self.pair.sweep(buckets, max_rows)

    @rule()
    def cut(self) -> None:
        self.pair.cut()

    @rule(data=st.data())
    def delta(self, data: Any) -> None:
        self.pair.delta(data.draw(st.integers(0, self.pair.model.sequence - 1)))

    @rule(whole=st.booleans(), skipped=st.integers(0, 2))
    def follow(self, whole: bool, skipped: int) -> None:
        self.pair.follow(whole, skipped)

    @rule()
    def save_and_open(self) -> None:
        self.pair.save_and_open()

    @precondition(lambda self: not self.divided)
    @rule(divisions=st.lists(DIVISIONS, min_size=1, max_size=2))
    def divide(self, divisions: list[list[Buckets]]) -> None:
        """Once a table, since that writes many files."""
        self.divided = True
        self.pair.divide(divisions)

    @rule(division=DIVISIONS, data=st.data())
    def delta_of_parts(self, division: list[Buckets], data: Any) -> None:
        self.pair.delta_of_parts(data.draw(st.integers(0, self.pair.model.sequence - 1)), division)

    @invariant()
    def looks_alike(self) -> None:
        self.pair.check(POOL)

    def teardown(self) -> None:
        if hasattr(self, "pair"):
            self.pair.check_all()


def runs_of(n: int) -> list[FeatureRuns]:
    """Under whose rules n ids may be shown."""
    return [None, "a", "b", [("b", n // 3), ("a", n - n // 3)]]


def draw_times(ids: list[int], how: str, data: Any) -> EventTimes:
    if how == "none" or not ids:
        return None
    if how == "one":
        return int(data.draw(TIMES))
    return list(data.draw(st.lists(TIMES, min_size=len(ids), max_size=len(ids))))


TableMachine.TestCase.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
test_table_behaves_as_the_model = TableMachine.TestCase

# --- long -------------------------------------------------------------------------------------------------------------

OPS = int(os.environ.get("MONOLITH_MODEL_OPS", "0"))
SEED = int(os.environ.get("MONOLITH_MODEL_SEED", "0"))
SLICE_OPS = 40_000
LIFE_OPS = 20_000  # then another table, under other rules
CHECK_EVERY = 2_000  # operations between two full checks
SAY_EVERY_S = 10.0


class Life:
    """One table from its making on: what is done to it is a function of the seed."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.pair = Pair(a_config(self.rng))
        self.pool = self.rng.integers(-(2**63), 2**63 - 1, int(self.rng.choice([30, 300, 1500])), endpoint=True)
        self.now_ms = 0
        self.ops = 0
        calls = {self.observe: 6, self.lookup: 5, self.apply_gradients: 4, self.step: 4, self.advance: 2, self.sweep: 3}
        calls |= {self.cut: 2, self.many_cuts: 0.02, self.delta: 2, self.follow: 0.5, self.save_and_open: 0.1}
        calls |= {self.divide: 0.05, self.delta_of_parts: 0.2}
        self.calls = list(calls)
        self.chances = np.array(list(calls.values())) / sum(calls.values())

    def live(self, ops: int) -> int:
        """Until ``ops`` operations are done; how many that were."""
        checked = 0
        while self.ops < ops:
            call = self.calls[self.rng.choice(len(self.calls), p=self.chances)]
            try:
                self.ops += call() or 1
                self.pair.check(self.pool[:30].tolist())
                if self.ops - checked >= CHECK_EVERY or self.ops >= ops:
                    checked = self.ops
                    self.pair.check_all()
            except Exception as error:
                raise AssertionError(f"after {self.ops:,} operations, in {call.__name__}: {error!r}") from error
        return self.ops

    def observe(self) -> int:
        ids = self.ids()
        self.pair.observe(ids, self.times(ids), runs_of(len(ids))[self.rng.integers(4)])
        return len(ids)

    def lookup(self) -> int:
        ids = self.ids()
        self.pair.lookup(ids)
        return len(ids)

    def apply_gradients(self) -> int:
        ids = self.ids()
        self.pair.apply_gradients(ids, self.grads(ids), self.times(ids))
        return len(ids)

    def step(self) -> int:
        ids = self.ids()
        self.pair.step(ids, self.grads(ids), self.times(ids), runs_of(len(ids))[self.rng.integers(4)])
        return 3 * len(ids)

    def advance(self) -> None:
        self.now_ms += int(self.rng.choice([0, 10, 300, 2500]))
        self.pair.advance(self.now_ms)

    def sweep(self) -> None:
        self.pair.sweep(int(self.rng.choice([1, 100, 700, 1024])), int(self.rng.choice([1, 30, 10**6])))

    def cut(self) -> None:
        self.pair.cut()

    def many_cuts(self) -> int:
        """Past what tombstones are kept for."""
        count = int(self.rng.integers(3000, 6000))
        for _ in range(count):
            self.pair.cut()
        return count

    def delta(self) -> None:
        newest = self.pair.model.sequence - 1
        near = newest - int(self.rng.integers(0, 4))
        self.pair.delta(int(self.rng.choice([0, max(0, near), self.rng.integers(0, newest + 1)])))

    def follow(self) -> None:
        self.pair.follow(bool(self.rng.random() < 0.1), int(self.rng.integers(0, 3)))

    def save_and_open(self) -> None:
        self.pair.save_and_open()

    def divide(self) -> None:
        self.pair.divide([self.division() for _ in range(2)])

    def delta_of_parts(self) -> None:
        newest = self.pair.model.sequence - 1
        self.pair.delta_of_parts(max(0, newest - int(self.rng.integers(0, 4))), self.division())

    def division(self) -> list[Buckets]:
        return division(int(self.rng.integers(1, 5)), int(self.rng.choice([0, 1, 100])))

    def ids(self) -> list[int]:
        """Some ids are seen often, most seldom."""
        ranks = self.rng.zipf(1.2, int(self.rng.integers(0, 130)))
        return self.pool[ranks % len(self.pool)].tolist()

    def grads(self, ids: list[int]) -> np.ndarray:
        return self.rng.standard_normal((len(ids), self.pair.table.dim), np.float32)

    def times(self, ids: list[int]) -> EventTimes:
        """Around now, some of them late."""
        how = self.rng.integers(0, 3)
        if how == 0 or not ids:
            return None
        self.now_ms += int(self.rng.integers(0, 120))
        if how == 1:
            return self.now_ms
        return (self.now_ms - self.rng.integers(0, 2 * TTL_MS, len(ids)) * (self.rng.random(len(ids)) < 0.2)).tolist()


def a_config(rng: np.random.Generator) -> TableConfig:
    return TableConfig(name="user", **{key: of[rng.integers(len(of))] for key, of in CHOICES.items()})


@pytest.mark.timeout(0 if OPS else 300)
def test_long_lives_stay_those_of_the_model(capsys):
    wanted, done, life, begun = OPS or SLICE_OPS, 0, 0, time.monotonic()
    due = begun + SAY_EVERY_S
    while done < wanted:
        try:
            done += Life(SEED + life).live(min(LIFE_OPS, wanted - done))
        except AssertionError as error:
            raise AssertionError(f"MONOLITH_MODEL_SEED={SEED + life}: {error}") from error
        life += 1
        if OPS and (time.monotonic() >= due or done >= wanted):
            due = time.monotonic() + SAY_EVERY_S
            rate = done / (time.monotonic() - begun)
            with capsys.disabled():
                print(f"model seed={SEED} lives={life} ops={done:,} of {wanted:,}, {rate:,.0f}/s", file=sys.stderr)
