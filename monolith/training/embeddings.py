"""Collisionless tables as a torch module: ids in, pooled vectors out, the tables' own optimizers run in backward.

``EmbeddingBagCollection`` takes the place of torchrec's class of the same name. The rows live in the native tables and
are no torch parameters: ``parameters()`` and ``state_dict()`` hold none of them (snapshots do), and a torch optimizer
never touches them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from monolith.config import TableConfig
from monolith.errors import ConfigError, InputError
from monolith.tables import Table
from monolith.tables.collection import Collection, Output
from monolith.tables.features import Bag, is_salted
from monolith.training.jagged import bags_of, batch_size
from monolith.training.lookup import LookupStep, Matrix, Vectors, WeightGradients

if TYPE_CHECKING:
    from torchrec.modules.embedding_configs import EmbeddingBagConfig
    from torchrec.sparse.jagged_tensor import KeyedJaggedTensor, KeyedTensor

EventTimes = int | npt.NDArray[np.int64] | torch.Tensor | None


class EmbeddingBagCollection(torch.nn.Module):
    """Pooled vectors of every feature of ``tables``.

    A forward in training mode is a step: the ids are observed (clock, counts, admission), looked up and pooled.
    Its backward applies one optimizer step per unique id of a table, on the sum of the id's gradients over all features
    of the table, added in order of occurrence (features in declared order, then position). Each forward is a step of
    its own: after two forwards and one backward over both, autograd applies the later one first. A second
    backward through the same forward raises InputError. Under ``no_grad`` a forward observes and updates nothing.
    A forward in eval mode only reads: it creates, counts and moves nothing.

    A gradient with NaN, infinity or a size that its optimizer does not bear, or a sum of gradients that comes to that,
    raises NonFiniteError before any table of the collection is changed, if the policy of its table is ``raise``.
    Not thread safe as a module; the tables are.
    """

    def __init__(self, tables: Sequence[TableConfig]) -> None:
        super().__init__()
        if doubled := [name for name, times in Counter(table.name for table in tables).items() if times > 1]:
            raise ConfigError(f"table names {doubled} are used more than once: give every table a name of its own")
        self.configs = tuple(tables)
        self.outputs = _outputs(tables)
        self._collection = Collection({config.name: Table(config) for config in tables}, self.outputs)
        self._features = list(dict.fromkeys(out.feature for out in self.outputs))
        self._anchor = torch.zeros(0, requires_grad=True)  # gives the fused lookup a gradient to be asked for

    @property
    def tables(self) -> Mapping[str, Table]:
        """The tables by name, in declared order."""
        return MappingProxyType(self._collection.tables)

    def replace_tables(self, tables: Mapping[str, Table]) -> None:
        """Go on with other tables of the same names and widths: those of a snapshot. Raises ConfigError."""
        if {name: table.dim for name, table in tables.items()} != {c.name: c.dim for c in self.configs}:
            raise ConfigError(f"tables {sorted(tables)} are not those of the collection, {sorted(self.tables)}")
        self._collection = Collection({config.name: tables[config.name] for config in self.configs}, self.outputs)

    @property
    def dims(self) -> dict[str, int]:
        """Output name -> width, in output order."""
        widths = {config.name: config.dim for config in self.configs}
        return {out.name: widths[out.table] for out in self.outputs}

    def forward(self, features: KeyedJaggedTensor, event_time_ms: EventTimes = None) -> KeyedTensor:
        """Pooled vectors (batch, sum of dims) for a KeyedJaggedTensor; its weights, if it has any, weigh the ids.

        ``event_time_ms`` is one time for all, one per sample, (batch,) int64, or None: the tables' clocks stand still.
        Raises InputError, before anything is changed, if a feature is missing or a length is wrong.
        """
        from torchrec.sparse.jagged_tensor import KeyedTensor  # who has a KeyedJaggedTensor has paid for this import

        bags = bags_of(features, self._features)
        weights = features.weights_or_none()
        differentiable = weights is not None and weights.requires_grad
        offsets = dict(zip(features.keys(), features.offset_per_key(), strict=False)) if differentiable else {}
        weight_of = {
            name: weights[offsets[name] : offsets[name] + len(bags[name].ids)] for name in self._features if offsets
        }
        dims = self.dims
        values = self._pooled(Matrix, bags, event_time_ms, weight_of)
        return KeyedTensor(keys=list(dims), length_per_key=list(dims.values()), values=values)

    def forward_bags(self, bags: Mapping[str, Bag], event_time_ms: EventTimes = None) -> dict[str, torch.Tensor]:
        """The same, from bags: output name -> (batch, dim) float32. The trainer's way, without torchrec."""
        vectors = self._pooled(Vectors, bags, event_time_ms, {})
        if isinstance(vectors, torch.Tensor):
            vectors = vectors.split(self._collection.dims, dim=1)  # type: ignore[no-untyped-call]
        return {out.name: vector for out, vector in zip(self.outputs, vectors, strict=True)}

    def _pooled(
        self,
        function: type[torch.autograd.Function],
        bags: Mapping[str, Bag],
        event_time_ms: EventTimes,
        weight_of: Mapping[str, torch.Tensor],
    ) -> Any:
        """What ``function`` gives; without gradients, the (batch, sum of dims) matrix."""
        times = _event_times(event_time_ms, batch_size(bags, self._features))
        in_order = [bags[out.feature] for out in self.outputs]
        if not self.training:
            return torch.from_numpy(self._collection.lookup(in_order))
        step = self._collection.forward(in_order, times)
        if not torch.is_grad_enabled():
            return torch.from_numpy(step.vectors)
        weights = [weight_of[out.feature] for out in self.outputs] if weight_of else []
        lookup = LookupStep(
            step, self._collection.dims, WeightGradients(self._collection, in_order) if weights else None
        )
        return function.apply(lookup, self._anchor, *weights)  # type: ignore[no-untyped-call]

    def embedding_bag_configs(self) -> list[EmbeddingBagConfig]:
        """The tables as torchrec describes them; ``num_embeddings`` is the number of rows now (at least 1)."""
        from torchrec.modules.embedding_configs import EmbeddingBagConfig, PoolingType

        return [
            EmbeddingBagConfig(
                name=config.name,
                embedding_dim=config.dim,
                num_embeddings=max(1, len(self.tables[config.name])),
                feature_names=config.feature_names(),
                pooling=PoolingType.SUM if config.pooling == "sum" else PoolingType.MEAN,
            )
            for config in self.configs
        ]

    def is_weighted(self) -> bool:
        """True: weights are used wherever the input carries them."""
        return True

    @property
    def device(self) -> torch.device:
        """Where the vectors come out: the CPU."""
        return torch.device("cpu")

    def __getstate__(self) -> dict[str, Any]:
        raise TypeError(
            "a collection holds native tables and cannot be copied or pickled: use Table.save and Table.open"
        )


def _outputs(tables: Sequence[TableConfig]) -> list[Output]:
    readers = Counter(name for table in tables for name in table.feature_names())
    return [
        Output(
            name if readers[name] == 1 else f"{name}@{table.name}",
            name,
            table.name,
            salted=is_salted(table),
        )
        for table in tables
        for name in table.feature_names()
    ]


def _event_times(times: EventTimes, batch: int) -> int | npt.NDArray[np.int64] | None:
    if times is None or isinstance(times, int):
        return times
    array = np.asarray(times)
    if array.shape != (batch,) or array.dtype != np.int64:
        raise InputError(
            f"event_time_ms is {array.dtype} of shape {array.shape}: it must be one int, None, or int64 of shape "
            f"({batch},), a time for each sample of the batch"
        )
    return array
