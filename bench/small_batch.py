"""Online learning on small batches: DeepFM over 26 features, our collection beside plain torch embeddings.

    python bench/small_batch.py [--json PATH] [--rows N] [--repeats N]

Each takes 8 steps at a time, which is how online learning runs; the order changes with each turn.
One model (26 tables of dim 16, the FM term, an MLP of 416-128-64-1) and one batch for all, in this process and in turn:

  ours         EmbeddingBagCollection with row-wise Adagrad fused into backward; dense Adam for the MLP
  SparseAdam   26 torch.nn.Embedding(sparse=True) with SparseAdam; dense Adam for the MLP
  dense Adam   26 torch.nn.Embedding and one Adam over everything

Printed are samples a second with the ratio of ours to the better of the two and the quartiles of the ratios of
neighbouring runs, and where our step's time goes: the tables' native calls, the MLP with its optimizer, and the rest,
which is Python and autograd of the embeddings.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from monolith.config.table import TableConfig
from monolith.tables import Table, optimizers
from monolith.tables.batch import Bag
from monolith.training import EmbeddingBagCollection

FEATURES, DIM = 26, 16
BURST = 9  # steps of one contender before the next has its turn
NAMES = [f"f{k}" for k in range(FEATURES)]
Vectors = list[torch.Tensor]


class Dense(torch.nn.Module):
    """What follows the embeddings: the FM term and the MLP."""

    def __init__(self) -> None:
        super().__init__()
        sizes = (FEATURES * DIM, 128, 64)
        layers = [part for width, out in pairwise(sizes) for part in (torch.nn.Linear(width, out), torch.nn.ReLU())]
        self.mlp = torch.nn.Sequential(*layers, torch.nn.Linear(64, 1))

    def forward(self, vectors: Vectors) -> torch.Tensor:
        """Vectors (batch, dim) of each feature to logits (batch,)."""
        stacked = torch.stack(vectors, dim=1)
        pairs = 0.5 * (stacked.sum(dim=1).square() - stacked.square().sum(dim=1)).sum(dim=1)
        return self.mlp(stacked.flatten(1)).squeeze(1) + pairs


class Model:
    """One contender: how it embeds, and which optimizers it has."""

    def __init__(self, embed: Callable[[np.ndarray], Vectors], sparse: list[torch.optim.Optimizer], dense: Dense):
        self.embed, self.dense = embed, dense
        self.optimizers = [*sparse, torch.optim.Adam(dense.parameters(), lr=1e-3)]

    def step(self, ids: np.ndarray, labels: torch.Tensor) -> None:
        """Train on one batch."""
        loss = torch.nn.functional.binary_cross_entropy_with_logits(self.dense(self.embed(ids)), labels)
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in self.optimizers:
            optimizer.step()


def ours(rows: int) -> Model:
    """Our collection, its rows there from the start."""
    rule = optimizers.RowWiseAdagrad(lr=0.05)
    collection = EmbeddingBagCollection([TableConfig(name=name, dim=DIM, optimizer=rule) for name in NAMES])
    for table in collection.tables.values():
        table.observe(np.arange(rows))

    def embed(ids: np.ndarray) -> Vectors:
        ones = np.ones(ids.shape[1], np.int32)
        vectors = collection.forward_bags({name: Bag(each, ones) for name, each in zip(NAMES, ids, strict=True)}, 1)
        return list(vectors.values())

    return Model(embed, [], Dense())


def plain(rows: int, *, sparse: bool) -> Model:
    """What torch itself has."""
    tables = torch.nn.ModuleList(torch.nn.Embedding(rows, DIM, sparse=sparse) for _ in NAMES)
    kind = torch.optim.SparseAdam if sparse else torch.optim.Adam

    def embed(ids: np.ndarray) -> Vectors:
        return [table(each) for table, each in zip(tables, torch.from_numpy(ids), strict=True)]

    return Model(embed, [kind(list(tables.parameters()), lr=1e-3)], Dense())


def main() -> None:
    """Time all three at each batch size."""
    options = parse()
    torch.set_num_threads(1)
    models = {
        "ours": ours(options.rows),
        "SparseAdam": plain(options.rows, sparse=True),
        "dense Adam": plain(options.rows, sparse=False),
    }
    print(f"DeepFM, {FEATURES} features of {options.rows:,} rows, dim {DIM}, 1 thread: samples a second")
    results = [measured(models, options, batch) for batch in (16, 64, 256)]
    if options.json:
        Path(options.json).write_text(json.dumps({**vars(options), "cases": results}, indent=1) + "\n")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", help="write the figures to this file as well")
    parser.add_argument("--rows", type=int, default=10_000, help="rows of each feature's table")
    parser.add_argument("--repeats", type=int, default=20)
    return parser.parse_args()


def measured(models: dict[str, Model], options: argparse.Namespace, batch: int) -> dict[str, Any]:
    """One batch size: medians, the ratio, and where our time goes."""
    rng = np.random.default_rng(batch)
    times: dict[str, list[float]] = {name: [] for name in models}
    for repeat in range(options.repeats + 1):
        batches = [one_batch(rng, options.rows, batch) for _ in range(BURST)]
        turn = repeat % len(models)
        for name in [*models][turn:] + [*models][:turn]:
            models[name].step(*batches[0])  # not timed: it finds the caches full of another's rows
            start = time.perf_counter()
            for ids, labels in batches[1:]:
                models[name].step(ids, labels)
            times[name].append((time.perf_counter() - start) / (BURST - 1))
    seconds = {name: np.array(each[1:]) for name, each in times.items()}  # the first runs warm up
    medians = {name: float(np.median(each)) for name, each in seconds.items()}
    better = min((name for name in models if name != "ours"), key=lambda name: medians[name])
    low, ratio, high = np.quantile(seconds[better] / seconds["ours"], [0.25, 0.5, 0.75])
    parts = split(models["ours"], options, batch)
    speeds = "   ".join(f"{name} {batch / median:9,.0f}" for name, median in medians.items())
    print(f"  batch {batch:<4} {speeds}   ours / {better} {ratio:.2f}x ({low:.2f}-{high:.2f})")
    print("    our step: " + ", ".join(f"{name} {ms:.2f} ms" for name, ms in parts.items()), flush=True)
    return {
        "batch": batch,
        "seconds": medians,
        "ratio": float(ratio),
        "quartiles": [float(low), float(high)],
        "parts_ms": parts,
    }


def one_batch(rng: np.random.Generator, rows: int, batch: int) -> tuple[np.ndarray, torch.Tensor]:
    """Row numbers (features, batch), which are our ids too, and labels."""
    return rng.integers(0, rows, (FEATURES, batch)), torch.from_numpy(rng.integers(0, 2, batch).astype(np.float32))


def split(model: Model, options: argparse.Namespace, batch: int) -> dict[str, float]:
    """Medians in ms: the whole step; the table calls alone; the dense half alone; and what is left."""
    rng = np.random.default_rng(batch + 1)
    tables = [Table(TableConfig(name=name, dim=DIM, optimizer=optimizers.RowWiseAdagrad(lr=0.05))) for name in NAMES]
    for table in tables:
        table.observe(np.arange(options.rows))
    alone = Model(lambda _: [torch.zeros(batch, DIM, requires_grad=True)] * FEATURES, [], Dense())
    labels, grads = torch.zeros(batch), np.full((batch, DIM), 1e-3, np.float32)
    whole, native, dense = [], [], []
    for _ in range(5 * options.repeats):
        ids = rng.integers(0, options.rows, (FEATURES, batch))
        start = time.perf_counter()
        model.step(ids, labels)
        middle = time.perf_counter()
        for table, each in zip(tables, ids, strict=True):
            table.step(each, event_time_ms=1).apply_gradients(grads)
        late = time.perf_counter()
        alone.step(ids, labels)
        whole.append(middle - start)
        native.append(late - middle)
        dense.append(time.perf_counter() - late)
    total, calls, rest = (float(np.median(each) * 1e3) for each in (whole, native, dense))
    return {"whole": total, "tables": calls, "dense": rest, "Python and autograd": total - calls - rest}


if __name__ == "__main__":
    main()
