"""What a replica's server tells Prometheus of its replica."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from monolith.events import WATERMARK_START
from monolith.serving.metrics import ServerMetrics
from monolith.serving.replica import Age


def exposed(watermark_ms: int) -> str:
    version = SimpleNamespace(generation=1, sequence=2, watermark_ms=watermark_ms)
    status = SimpleNamespace(ready=True, stale_ms=0.0, applied=0, images=1, age=Age(), version=version, freshness=None)
    return ServerMetrics(SimpleNamespace(status=lambda: status)).text().decode()


@pytest.mark.parametrize(("watermark_ms", "there"), [(1_700_000_000_000, True), (WATERMARK_START, False)])
def test_event_time_is_told_once_there_is_one(watermark_ms, there):
    assert ("monolith_replica_watermark_seconds 1.7e+09" in exposed(watermark_ms)) is there
    assert ("watermark_seconds" in exposed(watermark_ms)) is there
