"""What a table is, said in the shortest way: plain Python, one id at a time. `table_pair` holds tables to it.

To give tables another rule: say it here, and add its choices to `test_model.CHOICES`, from which both the search and
the long run draw. A rule that comes with a new call needs that in `Pair`, `TableMachine` and `Life` as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import reference

from monolith.tables import FeatureRules, TableConfig, admission, eviction, expiry, optimizers

KEPT_SEQUENCES = 4096  # for which tombstones are known
LEAST_TOMBSTONES = 40  # that a table of a pair keeps, however few rows it has; by default there are more
BEFORE_TIME = -(2**63)

Times = Sequence[int | None]  # of each id; None: the clock's


Features = Sequence[str | None]  # of each id; None: the table's own rules

REASONS = (
    "admitted",
    "rejected",
    "late",
    "expired_idle",
    "expired_age",
    "swept",
    "evicted",
    "counter_decrements",
    "dropped_gradients",
)


@cache
def id_hash(i: int) -> int:
    return int(reference.id_hash(np.array([i], np.int64))[0])


@cache
def tail_number(i: int, rows: int) -> int:
    return int(reference.tail_numbers(np.array([i], np.int64), rows)[0])


def bucket(i: int) -> int:
    return id_hash(i) >> 54


def upper(i: int) -> int:
    return id_hash(i) >> 32


def halvings(last: int, t: int, half_life_s: float | None) -> int:
    return (t - last) // round(half_life_s * 1000) if half_life_s and t > last else 0


def decayed(count: int, last: int, t: int, half_life_s: float | None) -> int:
    return count >> halvings(last, t, half_life_s)


@dataclass
class Row:
    values: np.ndarray  # (1, dim)
    state: np.ndarray  # (1, words)
    admitted: int
    last_seen: int
    mark: int  # the sequence in which it was written last
    feature: str | None
    uses: int = 1


@dataclass
class TailRow:
    values: np.ndarray  # (1, dim)
    state: np.ndarray  # (1, words)
    mark: int = 1


@dataclass
class Model:
    config: TableConfig
    rows: dict[int, Row] = field(default_factory=dict)
    counters: dict[tuple[str | None, int], list[int]] = field(default_factory=dict)  # whose, id -> [count, last time]
    tombstones: dict[int, int] = field(default_factory=dict)  # id -> sequence
    clock: int = BEFORE_TIME
    sequence: int = 1
    floor: int = 0  # deltas can start from here on
    cursor: int = 0  # the upper half of the hash that the next sweep starts at
    eviction_cursor: int = 0
    steps: int = 0
    happened: dict[str, int] = field(default_factory=lambda: dict.fromkeys(REASONS, 0))
    tail: list[TailRow] = field(init=False)  # of ids without a row

    def __post_init__(self) -> None:
        ids = reference.tail_ids(self.config.tail_rows)
        values = reference.initial_values(self.config, ids)
        self.tail = [TailRow(v[None], reference.row_state(self.config, 1)) for v in values]

    # --- time ---

    def advance(self, t: int) -> None:
        self.clock = max(self.clock, t)

    def rules(self, feature: str | None) -> FeatureRules:
        own = self.config.per_feature.get(feature or "", FeatureRules())
        return FeatureRules(own.admission or self.config.admission, own.expiry or self.config.expiry)

    def cutoffs(self, feature: str | None) -> tuple[int, int]:
        match self.rules(feature).expiry:
            case expiry.Idle(ttl_s=idle, max_age_s=age):
                limits = idle, age
            case expiry.Absolute(ttl_s=age):
                limits = None, age
            case _:
                limits = None, None
        return tuple(max(self.clock - round(s * 1000), BEFORE_TIME) if s else BEFORE_TIME for s in limits)

    def expiry_of(self, i: int) -> str | None:
        idle, age = self.cutoffs(self.rows[i].feature)
        return (
            "expired_idle" if self.rows[i].last_seen < idle else "expired_age" if self.rows[i].admitted < age else None
        )

    def live(self, i: int) -> bool:
        return i in self.rows and self.expiry_of(i) is None

    # --- how ids come ---

    def observe(self, ids: Sequence[int], times: Times, features: Features) -> None:
        self.clock = max([self.clock, *(t for t in times if t is not None)])
        for i, t, feature in zip(ids, times, features, strict=True):
            self.observe_one(i, self.clock if t is None else t, feature)
        if ids:
            self.evict({i for i in ids if i in self.rows})
            self.forget_removed()

    def observe_one(self, i: int, t: int, feature: str | None) -> None:
        if i in self.rows and not self.live(i):
            self.remove(i, self.expiry_of(i))
        if i in self.rows:
            row = self.rows[i]
            row.uses, row.last_seen = self.uses(row, t) + 1, max(row.last_seen, t)
        elif t < max(self.cutoffs(feature)):
            self.happened["late"] += 1
        elif not self.admits(i, t, feature):
            self.happened["rejected"] += 1
        else:
            values = self.first_values(i)
            self.rows[i] = Row(values, reference.row_state(self.config, 1), t, t, self.sequence, feature)
            self.counters = {key: counter for key, counter in self.counters.items() if key[1] != i}
            self.tombstones.pop(i, None)
            self.happened["admitted"] += 1

    def first_values(self, i: int) -> np.ndarray:
        shared = self.shared(i)
        if shared is None or not self.config.absent.start_from_tail:
            return reference.initial_values(self.config, np.array([i], np.int64))
        values = shared.values.copy()
        for columns, optimizer, _ in reference.slices_of(self.config):
            if isinstance(optimizer, optimizers.FTRL):
                values[:, columns] = 0
        return values

    def shared(self, i: int) -> TailRow | None:
        return self.tail[tail_number(i, len(self.tail))] if self.tail else None

    def admits(self, i: int, t: int, feature: str | None) -> bool:
        match self.rules(feature).admission:
            case admission.MinCount(count=count) as limits:
                return count == 1 or self.count(i, t, feature, limits) >= count
            case admission.Probability(p=p, half_life_s=half_life) as limits:
                n, time = self.count(i, t, feature, limits), t if half_life else None
                return bool(reference.admission_draws(self.config, np.array([i]), n, time)[0] < p)
        return isinstance(self.rules(feature).admission, admission.Always)

    def count(self, i: int, t: int, feature: str | None, limits: Any) -> int:
        owner = self.owner(feature)
        if (owner, i) in self.counters:
            count, last = self.counters[owner, i]
            self.counters[owner, i] = [decayed(count, last, t, limits.half_life_s) + 1, max(last, t)]
            return self.counters[owner, i][0]
        mates = [key for key in self.counters if key[0] == owner and bucket(key[1]) == bucket(i)]
        if len(mates) < -(-limits.max_counters // 1024):
            self.counters[owner, i] = [1, t]
            return 1
        for key in mates:
            count, last = self.counters.pop(key)
            if (left := decayed(count, last, t, limits.half_life_s)) > 1:
                self.counters[key] = [left - 1 << halvings(last, t, limits.half_life_s), last]
        self.happened["counter_decrements"] += 1
        return 1

    def owner(self, feature: str | None) -> str | None:
        own = self.config.per_feature.get(feature or "")
        return feature if own is not None and own.admission is not None else None

    def uses(self, row: Row, t: int) -> int:
        return decayed(row.uses, row.last_seen, t, getattr(self.config.eviction, "half_life_s", None))

    # --- how rows learn ---

    def values(self, ids: Sequence[int]) -> bytes:
        return b"".join(self.read(i).tobytes() for i in ids)

    def read(self, i: int) -> np.ndarray:
        row = self.rows[i] if self.live(i) else self.shared(i)
        return np.zeros((1, self.config.dim), np.float32) if row is None else row.values

    def apply_gradients(self, ids: Sequence[int], grads: np.ndarray, times: Times) -> None:
        self.steps += 1
        sums: dict[int, np.ndarray] = {}
        shared: dict[int, np.ndarray] = {}  # by number of the tail's row
        for i, grad, t in zip(ids, grads, times, strict=True):
            if self.live(i):
                sums[i] = sums[i] + grad if i in sums else grad
                row, time = self.rows[i], BEFORE_TIME if t is None else t
                row.uses, row.last_seen = self.uses(row, time), max(row.last_seen, time)
            elif self.tail:
                n = tail_number(i, len(self.tail))
                shared[n] = shared[n] + grad if n in shared else grad
            else:
                self.happened["dropped_gradients"] += 1
        for i, total in sums.items():
            row, one = self.rows[i], np.array([i], np.int64)
            reference.row_step(self.config, one, row.values, row.state, total[None], self.steps)
            self.rows[i].mark = self.sequence
        for n, total in shared.items():
            row, one = self.tail[n], reference.tail_ids(n + 1)[n:]
            reference.row_step(self.config, one, row.values, row.state, total[None], self.steps)
            row.mark = self.sequence

    # --- how ids go ---

    def remove(self, i: int, reason: str) -> None:
        del self.rows[i]
        if self.sequence > self.floor:
            self.tombstones[i] = self.sequence
        self.happened[reason] += 1

    def forget_removed(self) -> None:
        """Whole sequences, the oldest first, as long as there are more tombstones than one for every other row."""
        while len(self.tombstones) > max(LEAST_TOMBSTONES, len(self.rows) // 2):
            self.forget_through(min(self.tombstones.values()))

    def forget_through(self, sequence: int) -> None:
        self.floor = max(self.floor, sequence)
        self.tombstones = {i: mark for i, mark in self.tombstones.items() if mark > self.floor}

    def evict(self, kept: set[int]) -> None:
        limit, passed = getattr(self.config.eviction, "max_rows", None), 0
        while limit and len(self.rows) > limit and passed < 2**32:
            met, step = self.sample()
            gone = [i for i in met if not self.live(i)]
            for i in gone:
                self.remove(i, self.expiry_of(i))
            passed = 0 if gone else passed + step
            chosen, excess = [i for i in met if i in self.rows and i not in kept], len(self.rows) - limit
            if excess <= 0 or not chosen:
                continue
            share = max(-(-len(chosen) // 16), -(-len(chosen) * excess // max(1, len(self.rows) - len(kept))))
            count = min(share, max(excess, min(max(limit // 1024, 1), 32)), len(chosen))
            for i in sorted(chosen, key=self.score)[:count]:
                self.remove(i, "evicted")
            passed = 0

    def sample(self) -> tuple[list[int], int]:
        start = self.eviction_cursor
        order = sorted(self.rows, key=lambda i: (upper(i) - start) % 2**32)
        end = min(512, len(order))
        while end < len(order) and upper(order[end]) == upper(order[end - 1]):
            end += 1
        self.eviction_cursor = upper(order[end]) if end < len(order) else start
        return order[:end], (self.eviction_cursor - start) % 2**32 or 2**32

    def score(self, i: int) -> tuple[float, int, int]:
        row = self.rows[i]
        uses = self.uses(row, self.clock)
        match self.config.eviction:
            case eviction.LRU():
                return row.last_seen, 0, id_hash(i)
            case eviction.LFU():
                return uses, row.last_seen, id_hash(i)
        return i % 5 + uses + (float(row.last_seen) - float(row.admitted)) / 1024, 0, id_hash(i)

    def sweep(self, buckets: int, max_rows: int) -> int:
        start, span = self.cursor, buckets << 22

        def passed(i: int) -> bool:
            return (upper(i) - start) % 2**32 < span

        looked = sorted((upper(i) - start) % 2**32 for i in self.to_look_at() if passed(i))
        if len(looked) >= max_rows:
            span = looked[max_rows - 1] + 1
        self.cursor = (start + span) % 2**32
        gone = [i for i in self.rows if passed(i) and not self.live(i)]
        for i in gone:
            self.remove(i, self.expiry_of(i))
        self.happened["swept"] += len(gone)
        for key, counter in [*self.counters.items()]:
            if passed(key[1]) and not decayed(*counter, self.clock, self.half_life(key[0])):
                del self.counters[key]
        self.forget_removed()
        return len(gone)

    def to_look_at(self) -> list[int]:
        """Rows where some can expire, and counters that decay."""
        rules = [self.config.expiry, *(self.rules(feature).expiry for feature in self.config.per_feature)]
        rows = self.rows if any(not isinstance(rule, expiry.Forever) for rule in rules) else ()
        return [*rows, *(i for owner, i in self.counters if self.half_life(owner))]

    def half_life(self, feature: str | None) -> float | None:
        return getattr(self.rules(feature).admission, "half_life_s", None)

    # --- what leaves ---

    def cut(self) -> int:
        self.forget_through(max(0, self.sequence - KEPT_SEQUENCES))
        self.forget_removed()
        self.sequence += 1
        return self.sequence - 1

    def delta(self, since: int) -> tuple[list[int], list[int]]:
        """Ids written and ids removed after ``since``; None for what is not known any more."""
        ids = sorted(i for i, row in self.rows.items() if row.mark > since)
        return ids, sorted(i for i, mark in self.tombstones.items() if 0 < since < mark)

    def tail_after(self, since: int) -> list[int]:
        return [n for n, row in enumerate(self.tail) if row.mark > since]

    def tail_values(self, numbers: Sequence[int]) -> bytes:
        return b"".join(self.tail[n].values.tobytes() for n in numbers)
