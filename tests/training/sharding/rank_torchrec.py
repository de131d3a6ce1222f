"""A model of our collection beside torchrec's, on one process and, under DistributedModelParallel, on several."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.planner import EmbeddingShardingPlanner, ParameterConstraints, Topology
from torchrec.distributed.train_pipeline import TrainPipelineBase, TrainPipelineSparseDist
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection as TheirCollection
from torchrec.optim.optimizers import in_backward_optimizer_filter
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor
from torchrec.streamable import Pipelineable

from monolith.tables import TableConfig, admission, expiry, optimizers
from monolith.training import EmbeddingBagCollection

DIM, SAMPLES, STEPS, LR = 8, 32, 6, 0.1
KEYS = ["user", "tags", "static"]


@dataclass
class Sample(Pipelineable):
    """A batch of the model."""

    features: KeyedJaggedTensor
    times: torch.Tensor
    labels: torch.Tensor

    def to(self, device: torch.device, non_blocking: bool = False) -> Sample:
        return self

    def record_stream(self, stream: Any) -> None:
        pass

    def pin_memory(self) -> Sample:
        return self


def our_tables() -> list[TableConfig]:
    return [
        TableConfig(name="user", dim=DIM, optimizer=optimizers.Adagrad(lr=LR), admission=admission.MinCount(2)),
        TableConfig(name="tags", dim=DIM, pooling="mean", optimizer=optimizers.SGD(lr=LR), expiry=expiry.Idle(ttl_s=3)),
    ]


class Mixed(nn.Module):
    """Two collections and a dense part; gives (loss, logits), as torchrec's pipelines want it."""

    def __init__(self) -> None:
        super().__init__()
        self.ours = EmbeddingBagCollection(our_tables())
        table = EmbeddingBagConfig(
            name="static", embedding_dim=DIM, num_embeddings=64, feature_names=["static"],
            init_fn=lambda weight: nn.init.constant_(weight, 0.05),  # a sharded table starts by it
        )  # fmt: skip
        self.theirs = TheirCollection(tables=[table])
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.over = nn.Linear(3 * DIM, 1)

    def forward(self, batch: Sample) -> tuple[torch.Tensor, torch.Tensor]:
        ours = self.ours(batch.features, batch.times)
        theirs = self.theirs(batch.features)
        logits = self.over(torch.cat([ours.values(), theirs.values()], dim=1)).squeeze(1)
        return nn.functional.binary_cross_entropy_with_logits(logits, batch.labels), logits.detach()


def batch(step: int, start: int = 0, stop: int = SAMPLES) -> Sample:
    """Samples ``start`` to ``stop`` of a global batch."""
    rng = np.random.default_rng(step)
    columns = {}
    for key in KEYS:
        lengths = rng.integers(0, 3, SAMPLES)
        ids = rng.integers(0, 64, lengths.sum())
        ends = np.concatenate([[0], np.cumsum(lengths)])
        columns[key] = ids[ends[start] : ends[stop]], lengths[start:stop]
    times = torch.from_numpy(step * 1_000 + rng.integers(0, 1_000, SAMPLES).astype(np.int64))[start:stop]
    labels = torch.from_numpy(rng.integers(0, 2, SAMPLES).astype(np.float32))[start:stop]
    values = torch.from_numpy(np.concatenate([columns[key][0] for key in KEYS]))
    lengths = torch.from_numpy(np.concatenate([columns[key][1] for key in KEYS]).astype(np.int32))
    return Sample(KeyedJaggedTensor(keys=KEYS, values=values, lengths=lengths), times, labels)


def on_one_process() -> dict[str, Any]:
    model = Mixed()
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    losses = []
    for step in range(STEPS):
        loss, _ = model(batch(step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    rows = {name: table.rows() for name, table in model.ours.tables.items()}
    stats = {name: table.stats() for name, table in model.ours.tables.items()}
    return {
        "rows": rows, "stats": stats, "losses": losses, "over": model.over.weight.detach().numpy(),
        "static": model.theirs.embedding_bags["static"].weight.detach().numpy(),
    }  # fmt: skip


def divided(**options: Any) -> DistributedModelParallel:
    """The model under DistributedModelParallel, by torchrec's planner; the static table is to be sharded as well."""
    from monolith.training.sharding import CollectionSharder

    model, fused = Mixed(), {"learning_rate": LR}
    sharders = [CollectionSharder(expected_rows=1_000, **options), EmbeddingBagCollectionSharder(fused_params=fused)]
    ranks = dist.get_world_size()
    planner = EmbeddingShardingPlanner(
        topology=Topology(world_size=ranks, compute_device="cpu"),
        constraints={"static": ParameterConstraints(sharding_types=["table_wise"])},
    )
    plan = planner.collective_plan(model, sharders, dist.group.WORLD)
    return DistributedModelParallel(model, sharders=sharders, plan=plan, device=torch.device("cpu"))


def train(rank: int, folder: Path) -> dict[str, Any]:
    """Each pipeline from the start, and what it ends in; then a checkpoint."""
    result: dict[str, Any] = {}
    ranks = dist.get_world_size()
    share = SAMPLES // ranks
    for kind in ("base", "sparse", "plain"):  # the last one is read from, outside of a pipeline
        model = divided(exact=True)
        result["plan"] = str(model._plan)
        in_forward = dict(in_backward_optimizer_filter(model.named_parameters()))
        dense = torch.optim.SGD(in_forward.values(), lr=LR)
        mine = iter([batch(step, rank * share, (rank + 1) * share) for step in range(STEPS)])
        losses = _steps(kind, model, dense, mine)
        result[kind] = _state(model, losses)
    dcp.save({"model": model.state_dict()}, checkpoint_id=str(folder / "checkpoint"))
    model.eval()
    with torch.no_grad():
        result["read"] = model(batch(0, rank * share, (rank + 1) * share))[1].numpy()
    return result


def _steps(kind: str, model: Any, dense: torch.optim.Optimizer, mine: Any) -> list[float]:
    if kind == "plain":
        losses = []
        for one in mine:
            loss, _ = model(one)
            dense.zero_grad()
            loss.backward()
            dense.step()
            losses.append(loss.item())
        return losses
    pipeline = {"base": TrainPipelineBase, "sparse": TrainPipelineSparseDist}[kind](model, dense, torch.device("cpu"))
    for _ in range(STEPS):
        pipeline.progress(mine)
    return []


def _state(model: Any, losses: list[float]) -> dict[str, Any]:
    ours = model.module.ours.collection
    rows = {name: [table.rows() for table in parts] for name, parts in ours.tables.items()}
    weights = {name: value for name, value in model.state_dict().items() if "static" in name or name.startswith("over")}
    static = next(value for name, value in weights.items() if "static" in name)
    shards = (
        [shard.tensor.detach().numpy().copy() for shard in static.local_shards()]
        if hasattr(static, "local_shards")
        else [static]
    )
    return {
        "rows": rows, "stats": ours.stats(), "losses": losses, "static": shards,
        "over": weights["over.weight"].detach().numpy().copy(),
    }  # fmt: skip


def load(rank: int, folder: Path) -> dict[str, Any]:
    """Opens a checkpoint of another number of ranks."""
    model = divided(exact=True)
    state = {"model": model.state_dict()}
    dcp.load(state, checkpoint_id=str(folder / "checkpoint"))
    model.load_state_dict(state["model"])
    share = SAMPLES // dist.get_world_size()
    model.eval()
    with torch.no_grad():
        read = model(batch(0, rank * share, (rank + 1) * share))[1].numpy()
    return {"read": read, "stats": model.module.ours.collection.stats()}
