"""The divided torch module on two processes, held to the undivided one on one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from rank_collection import jagged, module_tables, train_module
from rank_runs import run

from monolith.training import EmbeddingBagCollection


def test_a_divided_module_beside_data_parallel_weights_trains_as_one_process(tmp_path: Path) -> None:
    ebc = EmbeddingBagCollection(module_tables())
    torch.manual_seed(0)
    over = torch.nn.Linear(10, 1)
    train_module(ebc, over, 0, 24)
    ebc.eval()
    read = ebc(jagged(0, 0, 24), 5)
    ranks = run("rank_collection", "module", 2, tmp_path)
    got = np.concatenate([rank["read"] for rank in ranks])
    np.testing.assert_allclose(got, read.values().numpy(), rtol=1e-5, atol=1e-6)
    for rank in ranks:
        assert rank["keys"] == read.keys()
        np.testing.assert_allclose(rank["held"][0], float(over.weight.detach().sum()), rtol=1e-5)
        assert rank["held"][1] == ebc.tables["user"].stats().observed  # in eval mode nothing is counted
        assert rank["shapes"] == {"user": (2, 4), "tags": (2, 3), "seen": (2, 3)}
        assert "weights require gradients" in rank["refused"]
