"""A table's training step beside FBGEMM's CPU table (TBE), which does no hashing, admits no id and never grows.

    python bench/table.py [--json PATH] [--rows N] [--ids N] [--dim N] [--repeats N]

Ours: observe, lookup and apply_gradients of a batch of 64-bit ids. FBGEMM: forward and backward, pooled, one id a bag,
of the row numbers of the same ids. Row-wise Adagrad, float32, one thread, both in this process and in turn. Each line
has both medians and their ratio (above 1: ours is faster) with the quartiles of the ratios of neighbouring runs.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    ComputeDevice,
    OptimType,
    SplitTableBatchedEmbeddingBagsCodegen,
)

from monolith.tables import Table, TableConfig, optimizers

LR, EPS = 0.05, 1e-8
ZIPF = 1.05


def main() -> None:
    """Time both tables on both spreads of ids, and say what came out."""
    options = parse()
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    keys = rng.integers(-(2**63), 2**63 - 1, options.rows, dtype=np.int64)
    ours, theirs = filled_table(keys, options.dim), fbgemm_table(options.rows, options.dim)
    print(f"training step: {options.ids:,} ids, dim {options.dim}, row-wise Adagrad, {options.rows:,} rows, 1 thread")
    results = []
    for spread, draw in (("uniform", uniform), (f"Zipf {ZIPF}", zipf)):
        batches = draw(rng, options.rows, options.ids)
        times = [in_turn(ours, theirs, keys, next(batches), options.dim) for _ in range(options.repeats + 3)]
        results.append(line(spread, np.array(times[3:])))  # the first runs warm caches and allocators
        print(text(results[-1]))
    stats = ours.stats()
    overhead = stats.bytes_overhead / stats.rows
    print(f"our overhead beyond values and optimizer state: {overhead:.1f} bytes a row")
    if options.json:
        report = {"machine": platform.machine(), "bytes_overhead_a_row": overhead, **vars(options), "cases": results}
        Path(options.json).write_text(json.dumps(report, indent=1, default=str) + "\n")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", help="write the figures to this file as well")
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--ids", type=int, default=160_000, help="ids a step")
    parser.add_argument("--dim", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=25)
    return parser.parse_args()


def filled_table(keys: np.ndarray, dim: int) -> Table:
    """Our table with a row for each key."""
    table = Table(TableConfig(name="bench", dim=dim, optimizer=optimizers.RowWiseAdagrad(lr=LR, eps=EPS)))
    table.observe(keys)
    return table


def fbgemm_table(rows: int, dim: int) -> SplitTableBatchedEmbeddingBagsCodegen:
    """FBGEMM's table of as many rows, with the same optimizer."""
    table = SplitTableBatchedEmbeddingBagsCodegen(
        [(rows, dim, EmbeddingLocation.HOST, ComputeDevice.CPU)],
        optimizer=OptimType.EXACT_ROWWISE_ADAGRAD,
        learning_rate=LR,
        eps=EPS,
    )
    table.init_embedding_weights_uniform(-0.05, 0.05)
    return table


def uniform(rng: np.random.Generator, rows: int, ids: int) -> Iterator[np.ndarray]:
    """Batches of row numbers, every row as likely as any other."""
    while True:
        yield rng.integers(0, rows, ids)


def zipf(rng: np.random.Generator, rows: int, ids: int) -> Iterator[np.ndarray]:
    """Ranks drawn with weight ``rank ** -ZIPF``, scattered over the rows."""
    cumulative = np.cumsum(np.arange(1, rows + 1, dtype=np.float64) ** -ZIPF)
    scattered = rng.permutation(rows)
    while True:
        yield scattered[np.searchsorted(cumulative, rng.random(ids) * cumulative[-1])]


def in_turn(
    ours: Table, theirs: SplitTableBatchedEmbeddingBagsCodegen, keys: np.ndarray, rows: np.ndarray, dim: int
) -> tuple[float, ...]:
    """Seconds of our three calls and of FBGEMM's step on one batch."""
    ids, grads = keys[rows], np.full((len(rows), dim), 1e-3, np.float32)
    out = np.empty_like(grads)
    indices, offsets, their_grads = torch.from_numpy(rows), torch.arange(len(rows) + 1), torch.from_numpy(grads)
    return (
        seconds(lambda: ours.observe(ids, event_time_ms=1)),
        seconds(lambda: ours.lookup(ids, out=out)),
        seconds(lambda: ours.apply_gradients(ids, grads)),
        seconds(lambda: theirs(indices, offsets).backward(their_grads)),
    )


def seconds(work: Callable[[], Any]) -> float:
    """How long ``work`` takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def line(spread: str, times: np.ndarray) -> dict[str, Any]:
    """The figures of one case, from (repeats, 4) seconds."""
    ours, theirs = times[:, :3].sum(axis=1), times[:, 3]
    low, ratio, high = np.quantile(theirs / ours, [0.25, 0.5, 0.75])
    parts = np.median(times[:, :3], axis=0) * 1e3
    return {
        "spread": spread,
        "ours_ms": float(np.median(ours) * 1e3),
        "fbgemm_ms": float(np.median(theirs) * 1e3),
        "ratio": float(ratio),
        "ratio_quartiles": [float(low), float(high)],
        "parts_ms": dict(zip(("observe", "lookup", "apply_gradients"), parts.tolist(), strict=True)),
    }


def text(result: dict[str, Any]) -> str:
    """Those figures as the line that is printed."""
    low, high = result["ratio_quartiles"]
    parts = ", ".join(f"{name} {ms:.1f}" for name, ms in result["parts_ms"].items())
    ours, theirs = result["ours_ms"], result["fbgemm_ms"]
    return (
        f"  {result['spread']:<10} ours {ours:5.1f} ms ({parts})   FBGEMM TBE {theirs:5.1f} ms   "
        f"{result['ratio']:.2f}x ({low:.2f}-{high:.2f})"
    )


if __name__ == "__main__":
    main()
