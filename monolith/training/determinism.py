"""Making torch's dense part give the same bits in every process."""

from __future__ import annotations

import os
import sys

import torch

from monolith.training.devices import CPU


def deterministic(threads: int, device: torch.device = CPU) -> None:
    """Fix torch's thread count and refuse operations without a fixed order; for the whole process.

    With the same ``threads`` the same inputs then give the same bits. Another count may sum in another order. On a GPU
    cuBLAS needs its work space to be of a fixed size for that, which has to be said before it is first used.
    """
    if device.type != "cpu":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(threads)
    if "torch._inductor.config" in sys.modules:
        torch.use_deterministic_algorithms(True)
    else:  # the same, less an import of torch's compiler, which is a second of every start and seldom used
        os.environ["TORCHINDUCTOR_DETERMINISTIC"] = "1"  # what the compiler reads, should the model load it
        torch.set_deterministic_debug_mode("error")
    # That mode also fills fresh memory with NaN, to expose reads of it; no operation here reads it, and it costs time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
