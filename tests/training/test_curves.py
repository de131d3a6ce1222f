"""The curves of a run are kept, bounded, and go on after a restart."""

from __future__ import annotations

import pytest

from monolith.training.curves import Curves, read_curves
from monolith.training.status import Status


def status(step: int, time_ms: int, *, ended: bool = False) -> Status:
    return Status(
        model="m", lineage="l", step=step, sequence=0, stored_sequence=0, samples=step, lag=0, watermark_ms=0,
        ended=ended, metrics={"total": {"auc": 0.5, "gauc": float("nan")}, "window": None}, tables={},
        updated_ms=time_ms,
    )  # fmt: skip


@pytest.fixture
def path(tmp_path):
    return tmp_path / "curves.jsonl"


def test_points_are_read_back_without_what_is_not_known(path):
    curves = Curves(path)
    curves(status(1, 0))
    curves(status(2, 5000))
    assert read_curves(path) == curves.points
    assert curves.points[0].scores == {"label": {"window": {}, "total": {"auc": 0.5}}}


def test_points_keep_their_distance_but_the_last_is_always_kept(path):
    curves = Curves(path, every_s=2.0)
    for at in (0, 1000, 1999, 2000, 2500):
        curves(status(1, at))
    curves(status(2, 2501, ended=True))
    assert [point.time_ms for point in read_curves(path)] == [0, 2000, 2501]


def test_a_long_run_keeps_its_newest_points_and_its_beginning_in_outline(path):
    curves = Curves(path, most=100, every_s=0)
    for n in range(1000):
        curves(status(n, n))
    kept = [point.step for point in read_curves(path)]
    assert kept == [point.step for point in curves.points]
    assert len(kept) <= 100
    assert kept[0] == 0
    assert kept[-40:] == list(range(960, 1000))


def test_a_restart_drops_the_points_of_steps_that_are_made_again(path):
    first = Curves(path, every_s=0)
    for n in range(10):
        first(status(n, n))
    again = Curves(path, every_s=0)
    again(status(6, 100))
    assert [(point.step, point.time_ms) for point in read_curves(path)] == [*((n, n) for n in range(7)), (6, 100)]


def test_a_line_that_a_crash_cut_costs_itself(path):
    Curves(path)(status(1, 0))
    with path.open("ab") as file:
        file.write(b'{"time_ms": 5, "st')
    assert [point.step for point in read_curves(path)] == [1]


def test_a_folder_that_is_gone_costs_points_and_not_the_training(tmp_path):
    curves = Curves(tmp_path / "gone" / "curves.jsonl")
    curves(status(1, 0))
    assert len(curves.points) == 1
