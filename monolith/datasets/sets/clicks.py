"""Criteo Kaggle, Avazu and KuaiRand: logs of impressions with a click label, from their owners' files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from monolith.datasets.sets.buckets import bucketed, log_squared
from monolith.datasets.sets.delimited import Block, Format, blocks
from monolith.datasets.sets.description import LABEL, START_MS, TIME
from monolith.datasets.sets.lines import Lines

CRITEO_NUMBERS = tuple(f"I{i}" for i in range(1, 14))
CRITEO_WORDS = tuple(f"C{i}" for i in range(1, 27))
AVAZU_WORDS = (
    "C1", "banner_pos", "site_id", "site_domain", "site_category", "app_id", "app_domain", "app_category", "device_id",
    "device_ip", "device_model", "device_type", "device_conn_type", "C14", "C15", "C16", "C17", "C18", "C19", "C20",
    "C21",
)  # fmt: skip
_KUAIRAND = ("user_id", "video_id", "time_ms", "is_click", "duration_ms", "tab")


def criteo(folder: Path, lines: Lines, *, name: str = "train.txt") -> Iterator[pa.Table]:
    """``train.txt`` of the Display Advertising Challenge, plain or packed; the order of lines is the time."""
    form = Format((LABEL, *CRITEO_NUMBERS, *CRITEO_WORDS), delimiter="\t", header=False)
    first = 0
    for block in blocks(folder / name, form, lines):
        columns = {
            LABEL: _binary(block, LABEL),
            TIME: pa.array(START_MS + np.arange(first, first + len(block))),
            **{name: bucketed(block.integers(name), log_squared) for name in CRITEO_NUMBERS},
            **{name: block.texts(name) for name in CRITEO_WORDS},
        }
        first += len(block)
        yield block.table(columns)


def avazu(folder: Path, lines: Lines, *, name: str = "train.csv") -> Iterator[pa.Table]:
    """``train.csv`` of the challenge, plain or packed; ``hour`` is YYMMDDHH, UTC, and becomes time and hour of day."""
    form = Format(("click", "hour", *AVAZU_WORDS))
    for block in blocks(folder / name, form, lines):
        hour = pc.fill_null(block.integers("hour", required=True), 0).to_numpy()
        times, fit = _hours(hour)
        block.require(fit, "hour", "a moment as YYMMDDHH")
        columns = {
            LABEL: _binary(block, "click"),
            TIME: times,
            "hour": hour % 100,
            **{name: block.texts(name) for name in AVAZU_WORDS},
        }
        yield block.table(columns)


def kuairand(folder: Path, lines: Lines) -> Iterator[pa.Table]:
    """``log_standard_*.csv`` of KuaiRand (Pure, 1K or 27K): a video that was shown, and whether it was clicked."""
    for path in sorted(folder.glob("log_standard_*.csv")):
        for block in blocks(path, Format(_KUAIRAND), lines):
            times = pc.fill_null(block.integers("time_ms", required=True), 0)
            local_hour = (times.to_numpy() // 3_600_000 + 8) % 24  # of China, where the videos were watched
            columns = {
                LABEL: _binary(block, "is_click"),
                TIME: times,
                "user": block.integers("user_id", required=True),
                "video": block.integers("video_id", required=True),
                "tab": block.integers("tab"),
                "duration": bucketed(pc.divide(block.integers("duration_ms"), 1000), log_squared),
                "hour": local_hour,
            }
            yield block.table(columns)


def _binary(block: Block, name: str) -> Any:
    """Labels as int8; a line with another one is rejected."""
    labels = pc.fill_null(block.integers(name, required=True), 0).to_numpy()
    fit = (labels == 0) | (labels == 1)
    block.require(fit, name, "0 or 1")
    return np.where(fit, labels, 0).astype(np.int8)


def _hours(hour: Any) -> tuple[Any, Any]:
    """Times in ms of YYMMDDHH (n,), and which of them are moments."""
    parts = [hour // 10**k % 100 for k in (6, 4, 2, 0)]
    fit = (hour < 10**8) & (parts[1] >= 1) & (parts[1] <= 12) & (parts[2] >= 1) & (parts[2] <= 31) & (parts[3] < 24)
    months = np.where(fit, (30 + parts[0]) * 12 + parts[1] - 1, 0).astype("datetime64[M]")
    days = months.astype("datetime64[D]").astype(np.int64) + parts[2] - 1
    return (days * 24 + parts[3]) * 3_600_000, fit
