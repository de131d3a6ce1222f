"""`train.device` as a user meets it on a machine without a GPU."""

from __future__ import annotations

import pytest
import torch

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(torch.cuda.is_available(), reason="what is said where there is no CUDA device"),
]


@pytest.mark.parametrize("workers", [(), ("--workers", 2)])
def test_a_gpu_that_is_not_there_is_refused_at_the_start_and_the_job_goes_on_without(kit, workers):
    kit.fill(f"log://{kit.folder / 'features'}", f"log://{kit.folder / 'actions'}", count=60)
    tables = [{"name": name, "dim": 9} for name in ("user", "item", "tags")]
    path = kit.job("none", tables=tables, sharding={"timeout_s": 60})
    refused = kit.run("train", path, *workers, "--set", "train.device=cuda")
    assert refused.returncode == 1
    assert refused.stderr.count("finds no CUDA device on this machine: install a torch with CUDA") == 1, refused.stderr
    assert "Traceback" not in refused.stderr
    if not workers:
        ended = kit.run("train", path)
        assert ended.returncode == 0, ended.stderr
