"""A sweep over parts takes the rows and counters that a sweep of the whole table takes, and ends at the same place."""

from __future__ import annotations

import numpy as np
import pytest

from monolith.config.admission import MinCount
from monolith.config.expiry import Idle
from monolith.tables import Table, TableConfig
from monolith.tables.split import buckets_of
from monolith.training.sharding.division import Division
from monolith.training.sharding.sweeping import TableSweep

CONFIG = TableConfig(
    name="t", dim=2, admission=MinCount(count=2, half_life_s=50), expiry=Idle(ttl_s=100), features=["t"]
)

PRUNED = TableConfig(name="t", dim=2, threshold=0.005, probation_s=100, features=["t"])  # of values up to 0.01


class Ranks:
    """One table on several ranks, without processes: what they would gather is put together here."""

    def __init__(self, config: TableConfig, ranks: int) -> None:
        self.division = Division(config, ranks)
        self.parts = [
            {part: Table(self.division.part_config(), buckets=self.division.buckets(part)) for part in own}
            for own in (self.division.of(rank) for rank in range(ranks))
        ]

    @property
    def tables(self) -> list[Table]:
        return [table for own in self.parts for table in own.values()]

    def observe(self, ids: np.ndarray, time_ms: int) -> None:
        for table in self.tables:
            own = ids[np.isin(buckets_of(ids), [*table.buckets])]
            table.step(own, event_time_ms=time_ms)
            table.advance(time_ms)

    def sweep(self, max_rows: int) -> int:
        sweeps = [TableSweep(self.division, own, max_rows) for own in self.parts]
        begun = np.stack([each.begin() for each in sweeps])
        ended = np.stack([each.go_on(begun) for each in sweeps])
        for each in sweeps:
            each.stand_at(int(ended[:, 1].max()))
        return int(ended[:, 0].sum())


@pytest.mark.parametrize("ranks", [1, 2, 3, 7])
@pytest.mark.parametrize("most", [1, 7, 60, 10_000])
@pytest.mark.parametrize("config", [CONFIG, PRUNED], ids=["expiry", "threshold"])
def test_any_number_of_ranks_sweeps_what_the_whole_table_sweeps(config, ranks, most):
    rng = np.random.default_rng(most)
    whole, divided = Table(config), Ranks(config, ranks)
    removed = 0
    for step in range(60):
        ids, time_ms = rng.integers(0, 300, 40), step * 10_000
        whole.step(ids, event_time_ms=time_ms)
        whole.advance(time_ms)
        divided.observe(ids, time_ms)
        gone = whole.sweep(max_rows=most)
        assert divided.sweep(most) == gone, step
        removed += gone
        places = {table.native.clockwork().sweep_cursor for table in divided.tables}
        assert places == {whole.native.clockwork().sweep_cursor}, step
        assert sum(len(table) for table in divided.tables) == len(whole)
        assert sum(table.stats().counters for table in divided.tables) == whole.stats().counters
    assert removed
    assert sum(table.stats().pruned for table in divided.tables) == whole.stats().pruned
    assert bool(whole.stats().pruned) == (config is PRUNED)
    ids = np.sort(np.concatenate([table.rows()[0] for table in divided.tables]))
    assert np.array_equal(ids, whole.rows()[0])
