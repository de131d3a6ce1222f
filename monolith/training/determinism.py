"""Making torch's dense part give the same bits in every process."""

from __future__ import annotations

import torch


def deterministic(threads: int) -> None:
    """Fix torch's thread count and refuse operations without a fixed order; for the whole process.

    With the same ``threads`` the same inputs then give the same bits. Another count may sum in another order.
    """
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    # That mode also fills fresh memory with NaN, to expose reads of it; no operation here reads it, and it costs time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
