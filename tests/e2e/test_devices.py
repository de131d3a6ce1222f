"""`train.device` as a user meets it: on a machine without a GPU, and, marked ``gpu``, on one that has some."""

from __future__ import annotations

import pytest
import torch

from monolith.training.snapshot import Snapshots

pytestmark = pytest.mark.e2e

TABLES = [{"name": name, "dim": 9} for name in ("user", "item", "tags")]


@pytest.mark.skipif(torch.cuda.is_available(), reason="what is said where there is no CUDA device")
@pytest.mark.parametrize("workers", [(), ("--workers", 2)])
def test_a_gpu_that_is_not_there_is_refused_at_the_start_and_the_job_goes_on_without(kit, workers):
    kit.fill(f"log://{kit.folder / 'features'}", f"log://{kit.folder / 'actions'}", count=60)
    path = kit.job("none", tables=TABLES, sharding={"timeout_s": 60})
    refused = kit.run("train", path, *workers, "--set", "train.device=cuda")
    assert refused.returncode == 1
    assert refused.stderr.count("finds no CUDA device on this machine: install a torch with CUDA") == 1, refused.stderr
    assert "Traceback" not in refused.stderr
    if not workers:
        ended = kit.run("train", path)
        assert ended.returncode == 0, ended.stderr


@pytest.mark.gpu
@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("ranks", [0, 1, 2])
def test_a_run_goes_from_gpus_to_the_cpu_and_back(kit, ranks, exact):
    if torch.cuda.device_count() < max(1, ranks):
        pytest.skip(f"needs {max(1, ranks)} CUDA devices, torch finds {torch.cuda.device_count()}")
    _goes_from_and_back(kit, ("--workers", ranks) if ranks else (), "cuda", exact=exact)


def _goes_from_and_back(kit, workers: tuple[object, ...], device: str, *, exact: bool) -> None:
    path = kit.job("moves", tables=TABLES, sharding={"timeout_s": 60, "exact": exact}, model={"kind": "mlp"})
    reached = 0
    for turn, where in enumerate([device, "cpu", device]):
        kit.fill(f"log://{kit.folder / 'features'}", f"log://{kit.folder / 'actions'}", count=100, seed=turn)
        ended = kit.run("train", path, *(workers if where == device else ()), "--set", f"train.device={where}")
        assert ended.returncode == 0, ended.stderr[-3000:]
        newest = Snapshots(kit.folder / "moves" / "state" / "snapshots").newest()
        assert newest is not None
        assert newest.manifest.step > reached
        reached = newest.manifest.step
    checked = kit.run(
        "inspect", f"lmdb://{kit.folder / 'moves' / 'store'}", "--against", kit.folder / "moves" / "state"
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
