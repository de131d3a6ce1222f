from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from monolith.config import InputConfig, JobConfig, TableConfig, TrainConfig
from monolith.config.admission import MinCount
from monolith.config.expiry import Idle
from monolith.config.optimizers import FTRL, Adam, RowWiseAdagrad, Slice
from monolith.events import FeatureEvent
from monolith.streaming import memory
from monolith.streaming.bounded import open_bounded
from monolith.streaming.codec import encode
from monolith.streaming.joiner import OnShown
from monolith.streaming.steps import StepReader
from monolith.tables import Table
from monolith.whatif.comparison import compare
from monolith.whatif.settings import settings
from monolith.whatif.shadow import Shadow, shadow_config

ROWS = [
    TableConfig(name="user", dim=16, optimizer=Adam(amsgrad=True), storage="bfloat16"),
    TableConfig(name="user", dim=7, optimizer=FTRL(), storage="float16"),
    TableConfig(name="user", dim=9, slices=[Slice(1, FTRL()), Slice(8, RowWiseAdagrad())]),
]


@pytest.mark.parametrize("config", ROWS)
def test_a_wide_shadow_has_rows_of_as_many_bytes(config):
    sizes = []
    for table in (Table(config), Table(shadow_config(config, wide=True))):
        table.observe(np.arange(1000), event_time_ms=0)
        stats = table.stats()
        sizes.append((stats.bytes_values + stats.bytes_state, stats.bytes_overhead))
    assert sizes[0] == sizes[1]
    assert shadow_config(config).dim == 1


@pytest.mark.parametrize("config", ROWS)
def test_the_bytes_are_those_of_the_real_table(config):
    config = TableConfig(
        name="user", dim=config.dim, optimizer=config.optimizer, slices=config.slices, storage=config.storage,
        admission=MinCount(2), expiry=Idle(ttl_s=1.0),
    )  # fmt: skip
    real, (setting,) = Table(config), settings(config, {})
    shadow = Shadow(setting)
    rng = np.random.default_rng(3)
    for second in range(20):
        ids = rng.integers(0, 900, 500) + 100 * second
        times = np.full(len(ids), second * 1000)
        real.observe(ids, event_time_ms=times)
        shadow._table.observe(ids, event_time_ms=times)
        real.sweep()
        shadow._table.sweep()
    stats, outcome = real.stats(), shadow.outcome()
    assert stats.free_rows > 0
    assert stats.expired > 0
    for kind in ("values", "state", "stamps", "index", "counters", "tombstones"):
        assert outcome.stats[f"bytes_{kind}"] == getattr(stats, f"bytes_{kind}")


def peak_of_comparison(count: int) -> int:
    """The most Python memory that a comparison over ``count`` events of 97 ids takes, in bytes."""
    topic = memory.topic("whatif", 1)
    for n in range(count):
        value = encode(FeatureEvent(f"r{n}", "i", 1_000_000 + n * 50, {"user": n % 97}))
        topic.put(0, None, value, 0, 2_000_000)
    table = TableConfig(name="user", dim=4)
    source = InputConfig(samples="memory://whatif")
    job = JobConfig(name="j", input=source, tables=[table], train=TrainConfig(step_records=64))
    both = settings(table, {"expiry": ["idle:3s", "forever"]})

    def open_reader(on_shown: OnShown) -> StepReader:
        return open_bounded(job, unjoined=True, on_shown=on_shown)

    tracemalloc.start()
    try:
        assert compare(job, table, both, open_reader, publishes=False).events == count
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        memory.forget("whatif")


def test_memory_does_not_grow_with_the_log():
    peak_of_comparison(2_000)  # what is taken once in a process
    assert peak_of_comparison(12_000) < 1.3 * peak_of_comparison(2_000)
