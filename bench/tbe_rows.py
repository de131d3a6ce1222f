"""The rows of a unified table by themselves: our native ones against FBGEMM's TBE, for bench/kinds.py --tbe."""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    ComputeDevice,
    OptimType,
    SplitTableBatchedEmbeddingBagsCodegen,
)

from monolith.config.table import TableConfig
from monolith.tables import optimizers, set_threads
from monolith.tables.batch import Bag
from monolith.tables.hashing import salted
from monolith.training import EmbeddingBagCollection

LR, EPS, DIM = 0.05, 1e-8, 16
TURN = 32  # steps


class Native:
    """Our unified table, which hashes the ids itself."""

    def __init__(self, features: list[str], rows: int) -> None:
        optimizer = optimizers.RowWiseAdagrad(lr=LR, eps=EPS)
        config = TableConfig(name="all", dim=DIM, kind="unified", rows=rows, features=features, optimizer=optimizer)
        self.collection = EmbeddingBagCollection([config])

    def step(self, ids: dict[str, np.ndarray], grads: torch.Tensor) -> None:
        """Forward and backward."""
        ones = np.ones(len(grads), np.int32)
        self.collection.forward_matrix({name: Bag(own, ones) for name, own in ids.items()}, 1).backward(grads)


class Tbe:
    """FBGEMM's table of as many rows, under the hashes of ours."""

    def __init__(self, native: Native, features: list[str], rows: int) -> None:
        self.table = SplitTableBatchedEmbeddingBagsCodegen(
            [(rows, DIM, EmbeddingLocation.HOST, ComputeDevice.CPU)],
            feature_table_map=[0] * len(features),
            optimizer=OptimType.EXACT_ROWWISE_ADAGRAD,
            learning_rate=LR,
            eps=EPS,
        )
        self.table.init_embedding_weights_uniform(-0.05, 0.05)
        self._keys = native.collection.tables["all"].keys

    def step(self, ids: dict[str, np.ndarray], grads: torch.Tensor) -> None:
        """Forward and backward."""
        numbers = np.concatenate([self._keys(name, salted(name, own))[0] for name, own in ids.items()])
        self.table(torch.from_numpy(numbers), torch.arange(len(numbers) + 1)).backward(grads)


def compare(features: int, options: argparse.Namespace) -> dict[str, float]:
    """Print milliseconds a step of both, and the ratio of neighbouring turns with its quartiles."""
    torch.set_num_threads(1)
    set_threads(1)
    names = [f"f{k}" for k in range(features)]
    rows = features * max(1, round(options.ids * options.share))
    native = Native(names, rows)
    both = {"native rows": native, "FBGEMM TBE": Tbe(native, names, rows)}
    rng = np.random.default_rng(0)
    seconds: dict[str, list[float]] = {name: [] for name in both}
    for turn in range(options.rounds + 1):
        batches = [{name: rng.zipf(1.2, options.batch) % options.ids for name in names} for _ in range(TURN)]
        grads = torch.from_numpy(rng.normal(size=(options.batch, features * DIM)).astype(np.float32) / options.batch)
        for name, one in both.items():
            start = time.perf_counter()
            for batch in batches:
                one.step(batch, grads)
            if turn:  # the first one warms up
                seconds[name].append(time.perf_counter() - start)
    ratios = np.array(seconds["FBGEMM TBE"]) / np.array(seconds["native rows"])
    low, middle, high = np.quantile(ratios, (0.25, 0.5, 0.75))
    found = {name: float(np.median(taken)) / TURN * 1e3 for name, taken in seconds.items()}
    for name, ms in found.items():
        print(f"{name:12} {rows:,} rows of {DIM}, {features} features, batch {options.batch}: {ms:.2f} ms a step")
    print(f"native rows are {middle:.2f} times as fast as FBGEMM's TBE ({low:.2f} to {high:.2f})")
    return {**found, "ratio": float(middle)}
