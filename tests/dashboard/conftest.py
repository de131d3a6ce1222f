"""A status with something in every part of it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from monolith.streaming.joiner_state import JoinCounters
from monolith.streaming.progress import Progress
from monolith.tables import Table, TableConfig
from monolith.training.status import Status


@pytest.fixture
def make_status() -> Callable[..., Status]:
    import msgspec

    stats = msgspec.to_builtins(Table(TableConfig(name="user", dim=4)).stats())
    scores = {"samples": 10, "positives": 3, "auc": 0.75, "gauc": float("nan"), "logloss": 0.5, "calibration": 1.25}

    def make(step: int = 3, time_ms: int = 10_000, **more: object) -> Status:
        status = Status(
            model="shop", lineage="abc", step=step, sequence=2, stored_sequence=1, samples=step * 10, lag=5,
            watermark_ms=1_700_000_000_000, ended=False, metrics={"total": scores, "window": None},
            tables={"user": {**stats, "rows": 7}}, samples_per_s=12.5, snapshot_step=2, freshness_ms=250.0,
            streams=Progress(records=40, lag=5, dead_letters={"label": 4}, joined=JoinCounters(late=2)),
            warnings=["raise join.window_s"], updated_ms=time_ms, pid=1,
        )  # fmt: skip
        for name, value in more.items():
            setattr(status, name, value)
        return status

    return make
