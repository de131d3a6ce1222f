"""What the training package does to the process that imports it."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from monolith.training.determinism import deterministic


def test_deterministic_sets_threads_and_refuses_unordered_operations():
    threads = torch.get_num_threads()
    try:
        deterministic(threads=1)
        assert torch.get_num_threads() == 1
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("before", ["", "import torch._inductor.config"])
def test_a_compiler_is_deterministic_too_and_is_not_loaded_for_it(before):
    code = f"""
import sys
{before}
from monolith.training.determinism import deterministic
deterministic(threads=1)
assert ("torch._dynamo" in sys.modules) == {bool(before)}
import torch._inductor.config
sys.exit(not (torch._inductor.config.deterministic and torch.are_deterministic_algorithms_enabled()))
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=120, check=False).returncode == 0


def test_the_trainers_modules_do_not_import_torchrec():
    modules = "embeddings, models, loss, metrics, export, dense_state"
    code = f"import sys; from monolith.training import {modules}; sys.exit('torchrec' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=120, check=False).returncode == 0
