"""What a table is, said in the shortest way: plain Python, one id at a time. `table_pair` holds tables to it.

To give tables another rule: say it here, and add its choices to `test_model.CHOICES`, from which both the search and
the long run draw. A rule that comes with a new call needs that in `Pair`, `TableMachine` and `Life` as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import accumulate

import numpy as np

from monolith.tables import TableConfig, admission, expiry, reference

KEPT_SEQUENCES = 4096  # for which tombstones are known
BEFORE_TIME = -(2**63)

Times = Sequence[int | None]  # of each id; None: the clock's


@cache
def bucket(i: int) -> int:
    return int(reference.bucket(np.array([i], np.int64))[0])


@dataclass
class Row:
    values: np.ndarray  # (1, dim)
    state: np.ndarray  # (1, words)
    last_seen: int
    mark: int  # the sequence in which it was written last


@dataclass
class Model:
    config: TableConfig
    rows: dict[int, Row] = field(default_factory=dict)
    counters: dict[int, list[int]] = field(default_factory=dict)  # id -> [count, last time]
    tombstones: dict[int, int] = field(default_factory=dict)  # id -> sequence
    clock: int = BEFORE_TIME
    sequence: int = 1
    floor: int = 0  # deltas can start from here on
    cursor: int = 0
    steps: int = 0
    happened: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("admitted", "rejected", "late", "expired"), 0)
    )

    # --- time ---

    def advance(self, t: int) -> None:
        self.clock = max(self.clock, t)

    def cutoff(self) -> int:
        rule = self.config.expiry
        return max(self.clock - round(rule.ttl_s * 1000), BEFORE_TIME) if isinstance(rule, expiry.Idle) else BEFORE_TIME

    def live(self, i: int) -> bool:
        return i in self.rows and self.rows[i].last_seen >= self.cutoff()

    # --- how ids come ---

    def observe(self, ids: Sequence[int], times: Times) -> None:
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
            self.admit(i, t)

    def admits(self, i: int, t: int) -> bool:
        match self.config.admission:
            case admission.MinCount(count=count):
                return count == 1 or self.count(i, t) >= count
            case admission.Probability(p=p):
                draw = reference.admission_draws(self.config, np.array([i]), self.count(i, t))
                return bool(draw[0] < p)
        return isinstance(self.config.admission, admission.Always)

    def admit(self, i: int, t: int) -> None:
        values = reference.initial_values(self.config, np.array([i], np.int64))
        self.rows[i] = Row(values, reference.row_state(self.config, 1), t, self.sequence)
        self.counters.pop(i, None)
        self.tombstones.pop(i, None)
        self.happened["admitted"] += 1

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

    # --- how rows learn ---

    def values(self, ids: Sequence[int]) -> bytes:
        zeros = np.zeros((1, self.config.dim), np.float32)
        return b"".join((self.rows[i].values if self.live(i) else zeros).tobytes() for i in ids)

    def apply_gradients(self, ids: Sequence[int], grads: np.ndarray, times: Times) -> None:
        self.steps += 1
        sums: dict[int, np.ndarray] = {}
        for i, grad, t in zip(ids, grads, times, strict=True):
            if self.live(i):
                sums[i] = sums[i] + grad if i in sums else grad
                self.rows[i].last_seen = max(self.rows[i].last_seen, BEFORE_TIME if t is None else t)
        for i, total in sums.items():
            row, one = self.rows[i], np.array([i], np.int64)
            reference.row_step(self.config, one, row.values, row.state, total[None], self.steps)
            self.rows[i].mark = self.sequence

    # --- how ids go ---

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

    # --- what leaves ---

    def cut(self) -> int:
        self.floor = max(self.floor, self.sequence - KEPT_SEQUENCES)
        self.tombstones = {i: mark for i, mark in self.tombstones.items() if mark > self.floor}
        self.sequence += 1
        return self.sequence - 1

    def delta(self, since: int) -> tuple[list[int], list[int]]:
        """Ids written and ids removed after ``since``; None for what is not known any more."""
        ids = sorted(i for i, row in self.rows.items() if row.mark > since)
        return ids, sorted(i for i, mark in self.tombstones.items() if 0 < since < mark)
