"""All operations in any order against a plain model in Python: same rows, same bits, same deltas, same files."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from monolith.errors import GapError
from monolith.tables import Table, TableConfig, admission, expiry, initializers, optimizers, reference

# Thirty ids, eight of them in one bucket, which holds two counters.
_MANY = np.arange(60_000)
POOL = [0, -1, 2**63 - 1, -(2**63), *range(1, 19), *_MANY[reference.bucket(_MANY) == 5][:8].tolist()]
TTL_MS = 5000


@dataclass
class Row:
    values: np.ndarray  # (1, dim)
    state: np.ndarray  # (1, words)
    last_seen: int
    mark: int


@dataclass
class Model:
    """What a table is, said in the shortest way."""

    config: TableConfig
    rows: dict[int, Row] = field(default_factory=dict)
    counters: dict[int, list[int]] = field(default_factory=dict)  # id -> [count, last time]
    tombstones: dict[int, int] = field(default_factory=dict)  # id -> sequence
    clock: int = -(2**63)
    sequence: int = 1
    cursor: int = 0
    steps: int = 0
    happened: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("admitted", "rejected", "late", "expired"), 0)
    )

    def cutoff(self) -> int:
        idle = isinstance(self.config.expiry, expiry.Idle)
        return max(self.clock - TTL_MS, -(2**63)) if idle else -(2**63)

    def live(self, i: int) -> bool:
        return i in self.rows and self.rows[i].last_seen >= self.cutoff()

    def observe(self, ids: list[int], times: list[int | None]) -> None:
        self.clock = max([self.clock, *(t for t in times if t is not None)])
        for i, t in zip(ids, times, strict=True):
            self.observe_one(i, self.clock if t is None else t)

    def observe_one(self, i: int, t: int) -> None:
        if i in self.rows and not self.live(i):
            self.remove(i)
        if i in self.rows:
            self.rows[i].last_seen = max(self.rows[i].last_seen, t)
        elif t < self.cutoff():
            self.happened["late"] += 1
        elif not self.admits(i, t):
            self.happened["rejected"] += 1
        else:
            one = np.array([i], np.int64)
            state = reference.row_state(self.config, 1)
            self.rows[i] = Row(reference.initial_values(self.config, one), state, t, self.sequence)
            self.counters.pop(i, None)
            self.tombstones.pop(i, None)
            self.happened["admitted"] += 1

    def admits(self, i: int, t: int) -> bool:
        match self.config.admission:
            case admission.MinCount(count=count):
                return count == 1 or self.count(i, t) >= count
            case admission.Probability(p=p):
                draw = reference.admission_draws(self.config, np.array([i]), self.count(i, t))
                return bool(draw[0] < p)
        return isinstance(self.config.admission, admission.Always)

    def count(self, i: int, t: int) -> int:
        if i in self.counters:
            count, last = self.counters[i]
            self.counters[i] = [self.decayed(count, last, t) + 1, max(last, t)]
            return self.counters[i][0]
        bound = -(-self.config.admission.max_counters // 1024)
        while len(mates := [j for j in self.counters if bucket(j) == bucket(i)]) >= bound:
            for j in mates:
                self.counters[j][0] //= 2
            self.counters = {j: counter for j, counter in self.counters.items() if counter[0]}
        self.counters[i] = [1, t]
        return 1

    def decayed(self, count: int, last: int, t: int) -> int:
        half_life = getattr(self.config.admission, "half_life_s", None)
        return count >> ((t - last) // round(half_life * 1000)) if half_life and t > last else count

    def apply_gradients(self, ids: list[int], grads: np.ndarray, times: list[int | None]) -> None:
        self.steps += 1
        sums: dict[int, np.ndarray] = {}
        for i, grad, t in zip(ids, grads, times, strict=True):
            if self.live(i):
                sums[i] = sums[i] + grad if i in sums else grad
                self.rows[i].last_seen = max(self.rows[i].last_seen, -(2**63) if t is None else t)
        for i, total in sums.items():
            row, one = self.rows[i], np.array([i], np.int64)
            reference.row_step(self.config, one, row.values, row.state, total[None], self.steps)
            self.rows[i].mark = self.sequence

    def remove(self, i: int) -> None:
        del self.rows[i]
        self.tombstones[i] = self.sequence
        self.happened["expired"] += 1

    def sweep(self, buckets: int, max_rows: int) -> int:
        sizes = [0] * 1024
        for i in self.rows:
            sizes[bucket(i)] += 1
        looked = accumulate(sizes[(self.cursor + k) % 1024] for k in range(buckets))
        buckets = next((k for k, n in enumerate(looked, 1) if n >= max_rows), buckets)
        chosen = {(self.cursor + k) % 1024 for k in range(buckets)}
        self.cursor = (self.cursor + buckets) % 1024
        gone = [i for i in self.rows if bucket(i) in chosen and not self.live(i)]
        for i in gone:
            self.remove(i)
        faded = [i for i, c in self.counters.items() if bucket(i) in chosen and not self.decayed(*c, self.clock)]
        for i in faded:
            del self.counters[i]
        return len(gone)

    def delta(self, since: int) -> tuple[list[int], list[int]]:
        ids = sorted(i for i, row in self.rows.items() if row.mark > since)
        return ids, sorted(i for i, mark in self.tombstones.items() if 0 < since < mark)


def bucket(i: int) -> int:
    return int(reference.bucket(np.array([i], np.int64))[0])


CONFIGS = st.builds(
    TableConfig,
    name=st.just("user"),
    dim=st.sampled_from([1, 3, 16, 17]),
    optimizer=st.sampled_from(
        [
            optimizers.SGD(lr=0.1),
            optimizers.Adagrad(weight_decay=0.1),
            optimizers.RowWiseAdagrad(),
            optimizers.Adam(weight_decay=0.01),
            optimizers.FTRL(l1=0.05, schedule=optimizers.Schedule(warmup_steps=3, decay="inverse_sqrt")),
            optimizers.RowWiseAdam(clip_row_norm=0.5),
        ]
    ),
    admission=st.sampled_from(
        [
            admission.Always(),
            admission.MinCount(1),
            admission.MinCount(2, max_counters=1500),
            admission.MinCount(3, half_life_s=2.0, max_counters=1500),
            admission.Probability(0.4, max_counters=1500),
            admission.Never(),
        ]
    ),
    expiry=st.sampled_from([expiry.Forever(), expiry.Idle(ttl_s=TTL_MS / 1000), expiry.Idle(ttl_s=TTL_MS / 1000)]),
    initializer=st.sampled_from([initializers.Uniform(), initializers.TruncatedNormal(), initializers.Zeros()]),
    storage=st.sampled_from(["float32", "float32", "bfloat16", "float16"]),
    seed=st.sampled_from([0, 7]),
)
BATCHES = st.lists(st.sampled_from(POOL), max_size=12)
TIMES = st.integers(0, 20_000)


class TableMachine(RuleBasedStateMachine):
    """Runs each operation on the table and on the model, and compares everything after each."""

    @initialize(config=CONFIGS)
    def start(self, config: TableConfig) -> None:
        self.table, self.model = Table(config), Model(config)
        self.replica = Table(TableConfig(name="replica", dim=config.dim))

    @rule(ids=BATCHES, how=st.sampled_from(["none", "one", "each"]), data=st.data())
    def observe(self, ids: list[int], how: str, data: Any) -> None:
        event_time_ms, times = self.draw_times(ids, how, data)
        self.table.observe(np.array(ids, np.int64), event_time_ms=event_time_ms)
        self.model.observe(ids, times)

    @rule(ids=BATCHES, how=st.sampled_from(["none", "one", "each"]), seed=st.integers(0, 99), data=st.data())
    def apply_gradients(self, ids: list[int], how: str, seed: int, data: Any) -> None:
        event_time_ms, times = self.draw_times(ids, how, data)
        grads = np.random.default_rng(seed).standard_normal((len(ids), self.table.dim)).astype(np.float32)
        self.table.apply_gradients(np.array(ids, np.int64), grads, event_time_ms=event_time_ms)
        self.model.apply_gradients(ids, grads, times)

    @rule(t=TIMES)
    def advance(self, t: int) -> None:
        self.table.advance(t)
        self.model.clock = max(self.model.clock, t)

    @rule(buckets=st.sampled_from([0, 1, 100, 700, 1024]), max_rows=st.sampled_from([1, 3, 10**6]))
    def sweep(self, buckets: int, max_rows: int) -> None:
        assert self.table.sweep(buckets, max_rows=max_rows) == self.model.sweep(buckets, max_rows)

    @rule()
    def cut(self) -> None:
        assert self.table.cut() == self.model.sequence
        self.model.sequence += 1

    @rule(data=st.data())
    def delta(self, data: Any) -> None:
        since = data.draw(st.integers(0, self.model.sequence - 1))
        delta = self.table.delta(since)
        ids, removed = self.model.delta(since)
        assert (delta.ids.tolist(), delta.removed.tolist()) == (ids, removed)
        assert delta.values.tobytes() == b"".join(self.model.rows[i].values.tobytes() for i in ids)

    @rule(whole=st.booleans(), skipped=st.integers(0, 2))
    def follow(self, whole: bool, skipped: int) -> None:
        """The replica takes an image, the next delta, or one that is too new; it always ends at the same rows."""
        sequence = self.table.cut()
        self.model.sequence += 1
        held = self.replica.sequence - 1
        since = 0 if whole else min(held + skipped, sequence)
        if since > held:
            try:
                self.replica.apply(self.table.delta(since))
                raise AssertionError("a gap was not noticed")
            except GapError:
                since = held
        self.replica.apply(self.table.delta(since))
        ids, values = self.replica.rows()
        assert ids.tolist() == sorted(self.model.rows)
        assert values.tobytes() == b"".join(self.model.rows[i].values.tobytes() for i in sorted(self.model.rows))

    @rule()
    def save_and_open(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            before = self.table.save(folder).read_bytes()
            self.table = Table.open(folder)
            assert self.table.save(folder).read_bytes() == before

    @invariant()
    def looks_alike(self) -> None:
        table, model = self.table, self.model
        pool = np.array(POOL, np.int64)
        zeros = np.zeros((1, table.dim), np.float32)
        expected = [model.rows[i].values if model.live(i) else zeros for i in POOL]
        assert table.lookup(pool).tobytes() == np.concatenate(expected).tobytes()
        assert table.rows()[0].tolist() == sorted(i for i in model.rows if model.live(i))
        assert (table.clock_ms, table.sequence) == (model.clock, model.sequence)
        stats = table.stats()
        assert (stats.rows, stats.counters, stats.tombstones) == tuple(
            map(len, (model.rows, model.counters, model.tombstones))
        )
        assert {name: getattr(stats, name) for name in model.happened} == model.happened

    @staticmethod
    def draw_times(ids: list[int], how: str, data: Any) -> tuple[Any, list[int | None]]:
        if how == "none" or not ids:
            return None, [None] * len(ids)
        if how == "one":
            t = data.draw(TIMES)
            return t, [t] * len(ids)
        times = data.draw(st.lists(TIMES, min_size=len(ids), max_size=len(ids)))
        return np.array(times, np.int64), times


TableMachine.TestCase.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
test_table_behaves_as_the_model = TableMachine.TestCase
