"""Who takes part in bench/table.py: each makes a training step of a batch and says how long its halves took."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    ComputeDevice,
    OptimType,
    SplitTableBatchedEmbeddingBagsCodegen,
)
from memory_bound import MemoryBound

from monolith.config.table import TableConfig
from monolith.tables import optimizers
from monolith.tables.batch import Bag
from monolith.training import EmbeddingBagCollection

LR, EPS = 0.05, 1e-8
Seconds = tuple[float, float]  # forward, backward


@dataclass(frozen=True)
class Batch:
    """What a step is made of, one id a bag."""

    ids: np.ndarray  # (n,) int64
    numbers: np.ndarray  # (n,) int64: the row of each id, for those that have no ids
    grads: torch.Tensor  # (n, dim)


class Module:
    """Our collection with one table that has a row for each key, under autograd."""

    name = "module"

    def __init__(self, keys: np.ndarray, dim: int) -> None:
        config = TableConfig(name="bench", dim=dim, optimizer=optimizers.RowWiseAdagrad(lr=LR, eps=EPS))
        self.collection = EmbeddingBagCollection([config])
        self.table = self.collection.tables["bench"]
        for part in np.array_split(keys, max(1, len(keys) // 100_000)):
            self.table.observe(part)

    def step(self, batch: Batch) -> Seconds:
        """One step, timed."""
        bags = {"bench": Bag(batch.ids, np.ones(len(batch.ids), np.int32))}
        return timed(lambda: self.collection.forward_bags(bags, 1)["bench"], lambda out: out.backward(batch.grads))


class Bare:
    """The same table without torch."""

    name = "table"

    def __init__(self, module: Module) -> None:
        self.table = module.table

    def step(self, batch: Batch) -> Seconds:
        """One step, timed."""
        gradients = batch.grads.numpy()
        return timed(lambda: self.table.step(batch.ids, event_time_ms=1), lambda step: step.apply_gradients(gradients))


class Tbe:
    """FBGEMM's table of as many rows, read by ``features`` features, each of which has its share of the batch."""

    def __init__(self, rows: int, dim: int, features: int) -> None:
        self.name = "FBGEMM TBE" if features == 1 else "FBGEMM TBE, two"
        self.features = features
        place = [(rows, dim, EmbeddingLocation.HOST, ComputeDevice.CPU)]
        self.table = SplitTableBatchedEmbeddingBagsCodegen(
            place,
            feature_table_map=[0] * features,
            optimizer=OptimType.EXACT_ROWWISE_ADAGRAD,
            learning_rate=LR,
            eps=EPS,
        )
        self.table.init_embedding_weights_uniform(-0.05, 0.05)

    def step(self, batch: Batch) -> Seconds:
        """One step, timed."""
        indices, offsets = torch.from_numpy(batch.numbers), torch.arange(len(batch.numbers) + 1)
        grads = batch.grads.view(len(batch.numbers) // self.features, -1)
        return timed(lambda: self.table(indices, offsets), lambda out: out.backward(grads))


class ManagedCollision:
    """Ids remapped to row numbers by torchrec, then FBGEMM's table."""

    name = "managed coll."

    def __init__(self, keys: np.ndarray, table: Tbe) -> None:
        from torchrec.modules.mc_modules import LFU_EvictionPolicy, MCHManagedCollisionModule

        self.table = table
        self.remap = MCHManagedCollisionModule(
            zch_size=len(keys) + 1,  # one row is shared by the ids without a row
            device=torch.device("cpu"),
            eviction_policy=LFU_EvictionPolicy(),
            eviction_interval=10,
            input_hash_size=2**62,
        ).train()
        for part in np.array_split(keys, 20):
            self.rows_of(part)

    def rows_of(self, ids: np.ndarray) -> torch.Tensor:
        """The row number of each id."""
        from torchrec.sparse.jagged_tensor import JaggedTensor

        jagged = JaggedTensor(torch.from_numpy(ids), lengths=torch.ones(len(ids), dtype=torch.int32))
        features = self.remap.preprocess({"bench": jagged})
        self.remap.profile(features)
        return self.remap.remap(features)["bench"].values()

    def step(self, batch: Batch) -> Seconds:
        """One step, timed."""
        offsets = torch.arange(len(batch.ids) + 1)
        last = self.remap._zch_size - 2  # the shared row has no place in the table of as many rows as keys
        grads = batch.grads.view(len(batch.ids) // self.table.features, -1)
        return timed(
            lambda: self.table.table(self.rows_of(batch.ids).clamp_(max=last), offsets),
            lambda out: out.backward(grads),
        )


class SparseAdam:
    """The table that torch itself has, and its optimizer for sparse gradients."""

    name = "torch SparseAdam"

    def __init__(self, rows: int, dim: int) -> None:
        self.table = torch.nn.EmbeddingBag(rows, dim, mode="sum", sparse=True)
        self.optimizer = torch.optim.SparseAdam(self.table.parameters(), lr=LR)

    def step(self, batch: Batch) -> Seconds:
        """One step, timed."""
        indices, offsets = torch.from_numpy(batch.numbers), torch.arange(len(batch.numbers))
        return timed(lambda: self.table(indices, offsets), lambda out: self.update(out, batch.grads))

    def update(self, out: torch.Tensor, grads: torch.Tensor) -> None:
        """The backward half."""
        self.optimizer.zero_grad()
        out.backward(grads)
        self.optimizer.step()


class Bound:
    """Only the memory traffic."""

    name = "memory bound"

    def __init__(self, module: Module) -> None:
        self.memory = MemoryBound(module.table.stats())

    def step(self, batch: Batch) -> Seconds:
        """One step, timed."""
        return self.memory.run(batch.numbers)


def timed(forward: Callable[[], Any], backward: Callable[[Any], Any]) -> Seconds:
    """Seconds of the two halves of a step."""
    start = time.perf_counter()
    out = forward()
    middle = time.perf_counter()
    backward(out)
    return middle - start, time.perf_counter() - middle
