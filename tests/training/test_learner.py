"""What a learner tells the replicas, and which exported graphs it uses again."""

from __future__ import annotations

import os
import threading

import numpy as np
import pytest

from monolith.config import InputConfig, JobConfig, ModelConfig, TableConfig
from monolith.errors import CorruptError
from monolith.tables import Table
from monolith.training.export import export_graph
from monolith.training.learner import Learner


def job(**settings: str) -> JobConfig:
    return JobConfig(
        name="t",
        input=InputConfig(samples="memory://samples", **settings),
        tables=[TableConfig(name="cat", dim=3), TableConfig(name="sum_1", dim=3)],
        model=ModelConfig(kind="fm"),
    )


@pytest.mark.parametrize(("rule", "ignored"), [("ignore", True), ("dead_letter", False)])
def test_the_card_says_whether_unknown_features_are_ignored(rule, ignored):
    assert Learner(job(unknown_features=rule)).card("run").ignore_unknown is ignored


def test_a_kept_graph_is_used_again_and_a_damaged_one_is_not(tmp_path):
    learner = Learner(job())
    graph = learner.export(tmp_path)
    assert graph == export_graph(learner.model, learner.vectors)
    (kept,) = tmp_path.iterdir()
    written = kept.stat().st_mtime_ns
    assert learner.export(tmp_path) == graph
    assert kept.stat().st_mtime_ns == written
    kept.write_bytes(graph[:-1])
    assert learner.export(tmp_path) == graph
    assert kept.read_bytes() == graph


def test_refused_tables_leave_all_of_them_as_they_were(tmp_path):
    """Also those that could have been read before the damaged one was met."""
    saved, learner = Learner(job()), Learner(job())
    saved.save(tmp_path)
    learner.tables["cat"].observe(np.arange(50))
    before = dict(learner.tables)
    damaged = tmp_path / "tables" / "sum_1" / "table.bin"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\0")
    with pytest.raises(CorruptError, match=r"sum_1/table\.bin"):
        learner.load_tables(tmp_path / "tables")
    assert learner.tables == before
    assert len(learner.tables["cat"]) == 50


def test_tables_of_a_snapshot_are_opened_beside_each_other(tmp_path, monkeypatch):
    Learner(job()).save(tmp_path)
    both, opened = threading.Barrier(2, timeout=30.0), Table.open

    def meet_and_open(*arguments, **settings):
        both.wait()  # raises where the other one is not begun
        return opened(*arguments, **settings)

    monkeypatch.setattr(Table, "open", meet_and_open)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    Learner(job()).load_tables(tmp_path / "tables")
