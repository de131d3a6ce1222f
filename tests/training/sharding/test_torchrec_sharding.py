"""Our collection beside torchrec's own under DistributedModelParallel, by its planner and in its pipelines."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rank_runs import run
from rank_torchrec import on_one_process

from monolith.tables.stats import HAPPENED

PIPELINES = ("plain", "base", "sparse")


@pytest.fixture(scope="module")
def one() -> dict[str, Any]:
    return on_one_process()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mixed")


@pytest.fixture(scope="module")
def two(folder: Path) -> list[dict[str, Any]]:
    return run("rank_torchrec", "train", 2, folder)


def test_the_planner_divides_ours_by_row_beside_theirs(two: list[dict[str, Any]]) -> None:
    modules = {text.split()[0]: text for text in two[0]["plan"].split("module: ")[1:]}
    assert set(modules) == {"ours", "theirs"}
    assert modules["ours"].count("row_wise") == 2


@pytest.mark.parametrize("kind", PIPELINES)
def test_a_mixed_model_trains_as_on_one_process(kind: str, one: dict[str, Any], two: list[dict[str, Any]]) -> None:
    for name, (ids, values) in one["rows"].items():
        parts = [part for rank in two for part in rank[kind]["rows"][name]]
        got = {int(key): row for own_ids, rows in parts for key, row in zip(own_ids, rows, strict=True)}
        assert sorted(got) == ids.tolist()
        np.testing.assert_allclose(np.array([got[key] for key in ids.tolist()]), values, rtol=1e-5, atol=1e-6)
    for rank in two:
        np.testing.assert_allclose(rank[kind]["over"], one["over"], rtol=1e-5, atol=1e-6)
    static = np.concatenate([shard for rank in two for shard in rank[kind]["static"]])
    np.testing.assert_allclose(static, one["static"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", PIPELINES)
def test_what_happened_to_ids_is_what_happens_on_one_process(
    kind: str, one: dict[str, Any], two: list[dict[str, Any]]
) -> None:
    for name, stats in one["stats"].items():
        told = two[0][kind]["stats"][name]
        assert {count: told[count] for count in HAPPENED} == {count: getattr(stats, count) for count in HAPPENED}
        assert told["observed"] > 0


def test_the_mean_of_the_ranks_losses_is_the_loss(one: dict[str, Any], two: list[dict[str, Any]]) -> None:
    losses = np.mean([rank["plain"]["losses"] for rank in two], axis=0)
    np.testing.assert_allclose(losses, one["losses"], rtol=1e-5)


@pytest.mark.parametrize("ranks", [1, 3])
def test_a_distributed_checkpoint_loads_at_another_number_of_ranks(
    ranks: int, two: list[dict[str, Any]], folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(folder / "checkpoint", tmp_path / "checkpoint")
    loaded = run("rank_torchrec", "load", ranks, tmp_path)
    assert loaded[0]["stats"]["user"]["rows"] == two[0]["plain"]["stats"]["user"]["rows"]
    for table, told in two[0]["plain"]["stats"].items():
        assert {count: loaded[0]["stats"][table][count] for count in HAPPENED} == {c: told[c] for c in HAPPENED}
    read = np.concatenate([rank["read"] for rank in two])
    np.testing.assert_allclose(
        np.concatenate([rank["read"] for rank in loaded]), read[: 32 // ranks * ranks], rtol=1e-5
    )


def test_torchrecs_own_sharding_test_passes_on_ours(tmp_path: Path) -> None:
    if "MONOLITH_TORCHREC_TESTS" not in os.environ:
        pytest.skip("needs MONOLITH_TORCHREC_TESTS, a folder with torchrec/distributed/tests of torchrec's repository")
    for told in run("rank_their_tests", "sharding", 2, tmp_path):
        collections = int(told.pop("divided"))
        assert set(told.values()) == {"passed"}, told
        assert collections == 2 * len(told)  # the model has two
