# ruff: noqa: ARG002 -- arguments that TorchRec's interfaces name
"""The collection under TorchRec's DistributedModelParallel: a sharder for its planner, and the sharded module.

    model = DistributedModelParallel(model, sharders=[CollectionSharder(), EmbeddingBagCollectionSharder()])

Ids travel by TorchRec's KJTAllToAll, so that its pipelines send the next batch's ids during this batch's dense part.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torchrec.distributed.comm_ops import get_gradient_division
from torchrec.distributed.dist_data import KJTAllToAll
from torchrec.distributed.embedding_sharding import EmbeddingShardingContext, KJTListSplitsAwaitable
from torchrec.distributed.embedding_types import KJTList
from torchrec.distributed.types import (
    Awaitable,
    LazyAwaitable,
    LazyNoWait,
    ModuleSharder,
    ParameterSharding,
    ShardedModule,
    ShardingEnv,
    ShardingType,
)
from torchrec.optim.fused import EmptyFusedOptimizer, FusedOptimizerModule
from torchrec.optim.keyed import KeyedOptimizer
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor, KeyedTensor
from torchrec.streamable import Multistreamable

from monolith.errors import ConfigError, InputError
from monolith.events import WATERMARK_START
from monolith.tables import Table
from monolith.tables.fixed import FixedTable
from monolith.training.embeddings import EmbeddingBagCollection
from monolith.training.jagged import EventTimes, batch_size, event_times
from monolith.training.sharding import checkpoint
from monolith.training.sharding.collection import ShardedCollection, ShardedStep
from monolith.training.sharding.division import LIMIT_PARTS
from monolith.training.sharding.module import jagged_bags, vectors_of
from monolith.training.sharding.questions import LOOKUP, STEP, Questions
from monolith.training.sharding.transport import Wire


class CollectionSharder(ModuleSharder[EmbeddingBagCollection]):  # type: ignore[misc]
    """Divides ``monolith.training.EmbeddingBagCollection`` by bucket; options are those of ``ShardedCollection``.

    ``expected_rows``: of each table, for the planner, which places tables by the memory that they will need.
    """

    def __init__(
        self,
        *,
        exact: bool = False,
        wire: Wire = "float32",
        limit_parts: int = LIMIT_PARTS,
        expected_rows: int | Mapping[str, int] = 1_000_000,
    ) -> None:
        super().__init__()
        self._options: dict[str, Any] = {"exact": exact, "wire": wire, "limit_parts": limit_parts}
        self._expected = expected_rows

    @property
    def module_type(self) -> type[EmbeddingBagCollection]:
        """What is divided."""
        return EmbeddingBagCollection

    def shardable_parameters(self, module: EmbeddingBagCollection) -> dict[str, torch.nn.Parameter]:
        """Each table as the planner sees it: a parameter of the expected rows, without memory."""
        return {
            config.name: torch.nn.Parameter(torch.empty(self._rows(config.name), config.dim, device="meta"))
            for config in module.configs
        }

    def sharding_types(self, compute_device_type: str) -> list[str]:
        """Row-wise: by bucket."""
        return [ShardingType.ROW_WISE.value]

    def compute_kernels(self, sharding_type: str, compute_device_type: str) -> list[str]:
        """The optimizer runs in backward."""
        return ["fused"]

    def shard(
        self,
        module: EmbeddingBagCollection,
        params: dict[str, ParameterSharding],
        env: ShardingEnv,
        device: torch.device | None = None,
        module_fqn: str | None = None,
    ) -> ShardedBags:
        """The module, divided; rows that it has already go to their owners, and every rank has brought the same."""
        return ShardedBags(module, env.process_group, **self._options)

    def _rows(self, table: str) -> int:
        return self._expected if isinstance(self._expected, int) else self._expected.get(table, 1_000_000)


@dataclass
class BagsContext(Multistreamable):  # type: ignore[misc]
    """What one batch's ways in and out share."""

    sharding_contexts: list[EmbeddingShardingContext] = field(default_factory=lambda: [EmbeddingShardingContext()])
    questions: Questions | None = None
    kind: int = STEP

    def record_stream(self, stream: torch.Stream) -> None:
        """Nothing is on a stream."""


class IdsDist(torch.nn.Module):
    """Sends each rank its question.

    TorchRec's pipelines replace ``_dist.forward`` by one that sends those of several modules at once.
    """

    def __init__(self, group: dist.ProcessGroup) -> None:
        super().__init__()
        self._dist = KJTAllToAll(group, [1] * dist.get_world_size(group))

    def forward(self, messages: Sequence[np.ndarray[Any, Any]]) -> Awaitable[Awaitable[KeyedJaggedTensor]]:
        """``messages[r]`` (n,) int64 to rank r, as the one sample of one key."""
        questions = KeyedJaggedTensor(
            keys=[f"to rank {rank}" for rank in range(len(messages))],
            values=torch.from_numpy(np.concatenate(list(messages))),
            lengths=torch.tensor([len(message) for message in messages], dtype=torch.int32),
            stride=1,
        )
        return self._dist(questions)


class ShardedBags(ShardedModule[KJTList, Any, KeyedTensor, BagsContext], FusedOptimizerModule):  # type: ignore[misc]
    """The collection, divided, as TorchRec's pipelines run it. A forward and backward are `sharding.module`'s.

    Its state dict has this rank's pieces (`sharding.checkpoint`), as bytes: for torch.distributed.checkpoint, which
    loads them at another number of ranks. Gradients are divided by the number of ranks unless torchrec's
    ``set_gradient_division(False)`` was called.
    """

    def __init__(self, module: EmbeddingBagCollection, group: dist.ProcessGroup | None, **options: Any) -> None:
        super().__init__()
        if hot := [table.name for table in module.configs if table.kind == "cafe"]:
            raise ConfigError(
                f"tables {hot} are cafe, whose rows change hands between steps, and TorchRec's pipelines send ids "
                f"ahead: take ShardedEmbeddingBagCollection or `monolith train --workers`"
            )
        self.collection = ShardedCollection(module.configs, module.outputs, group, **options)
        _take_over(self.collection, module)
        self.configs, self.outputs = module.configs, module.outputs
        self._configs_for_torchrec = module.embedding_bag_configs()
        self._features = list(dict.fromkeys(out.feature for out in self.outputs))
        self._input_dists = torch.nn.ModuleList([IdsDist(self.collection.transport.group)])
        self._anchor = torch.zeros(0, requires_grad=True)
        self._optimizer = EmptyFusedOptimizer()

    @property
    def dims(self) -> dict[str, int]:
        """Output name -> width, in output order."""
        return {out.name: dim for out, dim in zip(self.outputs, self.collection.dims, strict=True)}

    @property
    def unsharded_module_type(self) -> type[EmbeddingBagCollection]:
        """What was divided."""
        return EmbeddingBagCollection

    @property
    def fused_optimizer(self) -> KeyedOptimizer:
        """An optimizer of nothing: the tables have their own, which run in backward."""
        return self._optimizer

    def embedding_bag_configs(self) -> list[Any]:
        """The tables as torchrec describes them, as they were when they were divided."""
        return self._configs_for_torchrec

    def sharded_parameter_names(self, prefix: str = "") -> Iterator[str]:
        """None: rows are no parameters."""
        return iter(())

    def create_context(self) -> BagsContext:
        """Of one batch."""
        return BagsContext()

    def input_dist(
        self, ctx: BagsContext, features: KeyedJaggedTensor, event_time_ms: EventTimes = None
    ) -> Awaitable[Awaitable[KJTList]]:
        """Begin to send this rank's ids to their owners; no table is changed."""
        bags = jagged_bags(features, self._features)
        times = event_times(event_time_ms, batch_size(bags, self._features))
        ctx.kind = STEP if self.training else LOOKUP
        in_order = [bags[out.feature] for out in self.outputs]
        exact = self.collection.exact and ctx.kind == STEP
        given = times if ctx.kind == STEP else None
        ctx.questions = Questions(self.collection.divisions, in_order, given, ctx.kind, exact=exact)
        sent = self._input_dists[0](ctx.questions.messages(self.collection.transport.ranks))
        return KJTListSplitsAwaitable([sent], ctx)

    def compute(self, ctx: BagsContext, dist_input: KJTList) -> ShardedStep | torch.Tensor:
        """The step of all ranks' ids, or, in eval mode, their vectors."""
        if ctx.questions is None:
            raise InputError("compute() was called with a context that input_dist() did not fill")
        came = dist_input[0]
        ends = np.cumsum(came.lengths().numpy())
        messages = np.split(came.values().numpy(), ends[:-1])
        if ctx.kind == LOOKUP:
            return torch.from_numpy(self.collection.lookup_messages(ctx.questions, messages))
        return self.collection.forward_messages(ctx.questions, messages)

    def output_dist(self, ctx: BagsContext, output: ShardedStep | torch.Tensor) -> LazyAwaitable[KeyedTensor]:
        """The vectors of this rank's samples, (batch, sum of dims)."""
        if isinstance(output, ShardedStep):
            output = vectors_of(output, self._anchor, average=get_gradient_division())
        keyed = KeyedTensor(keys=list(self.dims), length_per_key=list(self.dims.values()), values=output)
        return LazyNoWait(keyed)

    # --- state --------------------------------------------------------------------------------------------------------

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination.update({f"{prefix}{name}": data for name, data in checkpoint.pieces(self.collection).items()})

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        wanted = checkpoint.names(self.collection)
        given = {name: state_dict[prefix + name] for name in wanted if prefix + name in state_dict}
        missing = [prefix + name for name in wanted if name not in given]
        if missing:
            missing_keys += missing
            return
        checkpoint.load_pieces(self.collection, given)


def _take_over(collection: ShardedCollection, module: EmbeddingBagCollection) -> None:
    """The rows and all other state of ``module``, those of this rank's parts, where it has any."""
    tables = []
    for part in collection.parts:
        native = part.division.native
        whole = module.tables[native.table.name]
        table = whole.parts[native.name] if isinstance(whole, FixedTable) else whole.one_table
        assert table is not None  # of a kind that is divided
        if table.sequence == 1 and table.clock_ms == WATERMARK_START and not table.stats().observed:
            tables.append(part.table)
            continue
        with tempfile.TemporaryDirectory(prefix="monolith-shard-") as folder:
            table.save(Path(folder), buckets=part.table.buckets)
            tables.append(Table.open(folder, part.table.config, buckets=part.table.buckets))
    collection.replace_parts(tables)
