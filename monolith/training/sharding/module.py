"""A divided collection as a torch module: what `training.embeddings` is on one process, on many.

dist.init_process_group("gloo")                       # under torchrun
ebc = ShardedEmbeddingBagCollection([TableConfig(name="user", dim=16), ...])
model = DistributedDataParallel(Over(...))            # the dense part, as ever
out = ebc(kjt, event_time_ms=t)                       # this rank's samples
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from monolith.config import TableConfig
from monolith.errors import InputError
from monolith.tables import Table
from monolith.tables.arguments import Matrix as Floats
from monolith.tables.batch import Bag
from monolith.training.embeddings import outputs_of
from monolith.training.jagged import EventTimes, bags_of, batch_size, event_times
from monolith.training.lookup import LookupStep, Matrix
from monolith.training.sharding.collection import ShardedCollection, ShardedStep
from monolith.training.sharding.division import LIMIT_PARTS
from monolith.training.sharding.transport import Wire

if TYPE_CHECKING:
    from torchrec.sparse.jagged_tensor import KeyedJaggedTensor, KeyedTensor


class ShardedEmbeddingBagCollection(torch.nn.Module):
    """Pooled vectors of this rank's samples, from tables that are divided between all ranks. Collective.

    In training mode a forward is a step over the samples of all ranks, and its backward applies one optimizer step for
    each unique id among them; in eval mode it only reads. Every rank runs forward and backward the same number of
    times, in the same order; a rank without samples brings a batch of none. Options are those of ``ShardedCollection``.

    ``average``: a rank's loss is the mean over its own samples, and the gradients are divided by the number of ranks,
    as DistributedDataParallel divides those of dense weights. False: gradients are taken as they are.

    An output that the loss does not use has a gradient of zeros. Gradients of the ids' weights are not formed, and
    weights that require them are refused (InputError).
    """

    def __init__(
        self,
        tables: Sequence[TableConfig],
        group: dist.ProcessGroup | None = None,
        *,
        exact: bool = False,
        wire: Wire = "float32",
        limit_parts: int = LIMIT_PARTS,
        average: bool = True,
        folder: str | os.PathLike[str] | None = None,
    ) -> None:
        super().__init__()
        self.configs = tuple(tables)
        self.outputs = outputs_of(tables)
        self.collection = ShardedCollection(
            tables, self.outputs, group, exact=exact, wire=wire, limit_parts=limit_parts, folder=folder
        )
        self.average = average
        self._features = list(dict.fromkeys(out.feature for out in self.outputs))
        self._anchor = torch.zeros(0, requires_grad=True)  # gives the lookup a gradient to be asked for

    @property
    def dims(self) -> dict[str, int]:
        """Output name -> width, in output order."""
        return {out.name: dim for out, dim in zip(self.outputs, self.collection.dims, strict=True)}

    @property
    def tables(self) -> Mapping[str, list[Table]]:
        """The parts of each table that this rank has."""
        return self.collection.tables

    def forward(self, features: KeyedJaggedTensor, event_time_ms: EventTimes = None) -> KeyedTensor:
        """Pooled vectors (batch, sum of dims) for this rank's KeyedJaggedTensor.

        ``event_time_ms`` is one time for all, one per sample, (batch,) int64, or None; of the same kind on all ranks.
        """
        from torchrec.sparse.jagged_tensor import KeyedTensor

        values = self.forward_matrix(jagged_bags(features, self._features), event_time_ms)
        return KeyedTensor(keys=list(self.dims), length_per_key=list(self.dims.values()), values=values)

    def forward_bags(self, bags: Mapping[str, Bag], event_time_ms: EventTimes = None) -> dict[str, torch.Tensor]:
        """The same, from bags: output name -> (batch, dim) float32."""
        vectors = self.forward_matrix(bags, event_time_ms).split(self.collection.dims, dim=1)  # type: ignore[no-untyped-call]
        return {out.name: vector for out, vector in zip(self.outputs, vectors, strict=True)}

    def forward_matrix(self, bags: Mapping[str, Bag], event_time_ms: EventTimes = None) -> torch.Tensor:
        """The same as one matrix, (batch, sum of dims), outputs in order."""
        times = event_times(event_time_ms, batch_size(bags, self._features))
        in_order = [bags[out.feature] for out in self.outputs]
        if not self.training:
            return torch.from_numpy(self.collection.lookup(in_order))
        return vectors_of(self.collection.forward(in_order, times), self._anchor, average=self.average)


class Averaged:
    """A step whose gradients are divided by the number of ranks on their way."""

    def __init__(self, step: ShardedStep, ranks: int) -> None:
        self._step, self._ranks = step, ranks
        self.vectors = step.vectors

    def apply_matrix(self, grads: Floats) -> None:
        """See `ShardedStep`."""
        self._step.apply_matrix(grads, shared_by=self._ranks)


def vectors_of(step: ShardedStep, anchor: torch.Tensor, *, average: bool) -> torch.Tensor:
    """The step's vectors as a tensor, whose backward applies its gradients."""
    if not torch.is_grad_enabled():
        return torch.from_numpy(step.vectors)
    ranks = step.ranks
    begun = Averaged(step, ranks) if average and ranks > 1 else step
    lookup = LookupStep(begun, [step.vectors.shape[1]], None)  # type: ignore[arg-type]
    vectors: torch.Tensor = Matrix.apply(lookup, anchor)  # type: ignore[no-untyped-call]
    return vectors


def jagged_bags(features: KeyedJaggedTensor, names: Sequence[str]) -> dict[str, Bag]:
    """`bags_of`; raises InputError for weights that require gradients."""
    weights = features.weights_or_none()
    if weights is not None and weights.requires_grad:
        raise InputError(
            "the ids' weights require gradients, which a divided collection does not form: detach the weights, or "
            "train on one process"
        )
    return bags_of(features, names)
