"""Collisionless tables as a torch module: ids in, pooled vectors out, the tables' own optimizers run in backward.

``EmbeddingBagCollection`` takes the place of torchrec's class of the same name. The rows live in the native tables and
are no torch parameters: ``parameters()`` holds none of them, and a torch optimizer never touches them. ``state_dict()``
has all of them (``monolith.training.table_state``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch

from monolith.config import TableConfig
from monolith.errors import ConfigError, InputError, MonolithError
from monolith.tables.batch import Bag
from monolith.tables.collection import Collection, Output
from monolith.tables.embedding import Embedding
from monolith.tables.kinds import new_embedding
from monolith.tables.schema import is_salted
from monolith.training.compiled import Place, pooled
from monolith.training.jagged import EventTimes, bags_of, batch_size, event_times
from monolith.training.lookup import LookupStep, Matrix, Vectors, WeightGradients
from monolith.training.table_state import state_keys, tables_of_state, tables_state

if TYPE_CHECKING:
    from torchrec.modules.embedding_configs import EmbeddingBagConfig
    from torchrec.sparse.jagged_tensor import KeyedJaggedTensor, KeyedTensor


class EmbeddingBagCollection(torch.nn.Module):
    """Pooled vectors of every feature of ``tables``.

    A forward in training mode is a step: the ids are observed (clock, counts, admission), looked up and pooled, under
    ``no_grad`` as well, as BatchNorm's running statistics are. Its backward applies one optimizer step per unique id of
    a table, on the sum of the id's gradients over all features of the table, added in order of occurrence (features in
    declared order, then position). Each forward is a step of its own: after two forwards and one backward over both,
    autograd applies the later one first. A second backward through the same forward raises InputError. Under
    ``no_grad`` there is no backward, so no value changes. A forward in eval mode only reads: it creates, counts and
    moves nothing, and its vectors have no gradients.

    ``to``, ``double``, ``half`` and ``cuda`` change what the vectors come out as; rows stay float32 in main memory.
    ``forward`` can be compiled and exported whole. ``docs/torch.md`` has what else differs from other torch modules.

    A gradient with NaN, infinity or a size that its optimizer does not bear, or a sum of gradients that comes to that,
    raises NonFiniteError before any table of the collection is changed, if the policy of its table is ``raise``.
    Not thread safe as a module; the tables are.
    """

    def __init__(self, tables: Sequence[TableConfig]) -> None:
        super().__init__()
        if doubled := [name for name, times in Counter(table.name for table in tables).items() if times > 1]:
            raise ConfigError(f"table names {doubled} are used more than once: give every table a name of its own")
        self.configs = tuple(tables)
        self.outputs = outputs_of(tables)
        self._collection = Collection({config.name: new_embedding(config) for config in tables}, self.outputs)
        self._features = list(dict.fromkeys(out.feature for out in self.outputs))
        self._place = Place(self._collection, self._features)
        self._cast: tuple[torch.device, torch.dtype] | None = None  # None: vectors come out as the tables give them
        self._anchor = torch.zeros(0, requires_grad=True)  # gives the fused lookup a gradient to be asked for

    @property
    def tables(self) -> Mapping[str, Embedding]:
        """The tables by name, in declared order."""
        return MappingProxyType(self._collection.tables)

    def replace_tables(self, tables: Mapping[str, Embedding]) -> None:
        """Go on with other tables of the same names and widths: those of a snapshot. Raises ConfigError."""
        if {name: table.dim for name, table in tables.items()} != {c.name: c.dim for c in self.configs}:
            raise ConfigError(f"tables {sorted(tables)} are not those of the collection, {sorted(self.tables)}")
        self._collection = Collection({config.name: tables[config.name] for config in self.configs}, self.outputs)
        self._place.collection = self._collection

    @property
    def dims(self) -> dict[str, int]:
        """Output name -> width, in output order."""
        return {out.name: width for out, width in zip(self.outputs, self._collection.dims, strict=True)}

    def forward(self, features: KeyedJaggedTensor, event_time_ms: EventTimes = None) -> KeyedTensor:
        """Pooled vectors (batch, sum of dims) for a KeyedJaggedTensor; its weights, if it has any, weigh the ids.

        ``event_time_ms`` is one time for all, one per sample, (batch,) int64, or None: the tables' clocks stand still.
        Raises InputError, before anything is changed, if a feature is missing or a length is wrong.
        """
        from torchrec.sparse.jagged_tensor import KeyedTensor  # who has a KeyedJaggedTensor has paid for this import

        dims = self.dims
        values = self._values(features, event_time_ms)
        return KeyedTensor(keys=list(dims), length_per_key=list(dims.values()), values=values)

    def _values(self, features: KeyedJaggedTensor, event_time_ms: EventTimes) -> torch.Tensor:
        if torch.compiler.is_compiling():
            times = torch.as_tensor(event_time_ms) if isinstance(event_time_ms, np.ndarray) else event_time_ms
            return self._as_asked(pooled(self._place, self._anchor, features, times, training=self.training))
        bags = bags_of(features, self._features)
        weight_of = {}
        weights = features.weights_or_none()
        if weights is not None and weights.requires_grad:
            begins = dict(zip(features.keys(), features.offset_per_key(), strict=False))
            weights = weights.cpu()
            weight_of = {name: weights[begins[name] :][: len(bags[name].ids)] for name in self._features}
        matrix: torch.Tensor = self._pooled(Matrix, bags, event_time_ms, weight_of)
        return matrix

    def forward_bags(self, bags: Mapping[str, Bag], event_time_ms: EventTimes = None) -> dict[str, torch.Tensor]:
        """The same, from bags: output name -> (batch, dim) float32. The trainer's way, without torchrec."""
        if torch.compiler.is_compiling():  # bags are NumPy's: this part stays outside of the graph
            from monolith.training import untraced

            result: dict[str, torch.Tensor] = untraced.forward_bags(self, bags, event_time_ms)
            return result
        vectors = self._pooled(Vectors, bags, event_time_ms, {})
        if isinstance(vectors, torch.Tensor):
            vectors = vectors.split(self._collection.dims, dim=1)  # type: ignore[no-untyped-call]
        return {out.name: vector for out, vector in zip(self.outputs, vectors, strict=True)}

    def forward_matrix(self, bags: Mapping[str, Bag], event_time_ms: EventTimes = None) -> torch.Tensor:
        """The same as one matrix, (batch, sum of dims), outputs in order: not a tensor and a gradient an output."""
        matrix: torch.Tensor = self._pooled(Matrix, bags, event_time_ms, {})
        return matrix

    def _pooled(
        self,
        function: type[torch.autograd.Function],
        bags: Mapping[str, Bag],
        event_time_ms: EventTimes,
        weight_of: Mapping[str, torch.Tensor],
    ) -> Any:
        """What ``function`` gives; without gradients, the (batch, sum of dims) matrix."""
        if torch.jit.is_tracing():  # type: ignore[attr-defined,no-untyped-call]
            raise InputError(
                "torch.jit.trace, which torch.onnx.export(dynamo=False) uses, would take the example's vectors for "
                "constants: use torch.export, or trace the part of the model behind the collection"
            )
        times = event_times(event_time_ms, batch_size(bags, self._features))
        in_order = [bags[out.feature] for out in self.outputs]
        if not self.training:
            return self._as_asked(torch.from_numpy(self._collection.lookup(in_order)))
        step = self._collection.forward(in_order, times)
        if not torch.is_grad_enabled():
            return self._as_asked(torch.from_numpy(step.vectors))
        weights = [weight_of[out.feature] for out in self.outputs] if weight_of else []
        lookup = LookupStep(
            step, self._collection.dims, WeightGradients(self._collection, in_order) if weights else None
        )
        vectors = function.apply(lookup, self._anchor, *weights)  # type: ignore[no-untyped-call]
        if self._cast is None:
            return vectors
        return tuple(map(self._as_asked, vectors)) if isinstance(vectors, tuple) else self._as_asked(vectors)

    def _as_asked(self, vectors: torch.Tensor) -> torch.Tensor:
        return vectors if self._cast is None else vectors.to(*self._cast)

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
        """Where the vectors come out: on the CPU, unless ``to`` said something else."""
        return torch.device("cpu") if self._cast is None else self._cast[0]

    # --- what torch does to every module ------------------------------------------------------------------------------

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        """How ``to``, ``double``, ``cuda`` and the like reach a module."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        to = fn(torch.zeros(0, device=self.device, dtype=None if self._cast is None else self._cast[1]))
        if to.device.type == "cpu" and to.is_shared():  # type: ignore[no-untyped-call]
            raise InputError(
                "share_memory() cannot share a collection: each process would train rows of its own. Train in one "
                "process, with set_threads, or put the rest of the model in shared memory"
            )
        self._cast = None if (to.device.type, to.dtype) == ("cpu", torch.float32) else (to.device, to.dtype)
        return self

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Raises InputError for False: rows are no parameters, and ``eval`` is what freezes them."""
        if not requires_grad:
            raise InputError(
                "requires_grad_(False) cannot freeze a collection, whose rows are no parameters: call eval() on it, "
                "then it only reads; or give its tables `admission: {kind: never}` to keep new ids out"
            )
        return self

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination |= tables_state(self.tables, prefix)

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        own = {key: value for key, value in state_dict.items() if key in state_keys(self.tables, prefix)}
        others = {key: value for key, value in state_dict.items() if key not in own}
        super()._load_from_state_dict(others, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs)
        missing_keys += sorted(state_keys(self.tables, prefix) - own.keys())  # as torch does, what is there is taken
        try:
            self.replace_tables(tables_of_state(self.tables, own, prefix))
        except MonolithError as error:
            error_msgs.append(str(error))

    def _replicate_for_data_parallel(self) -> Self:
        raise ConfigError(
            "nn.DataParallel would step the same tables from several threads in an order of chance: run the collection "
            "outside of it, on the whole batch, and give DataParallel the part of the model behind it"
        )

    def __getstate__(self) -> dict[str, Any]:
        raise TypeError(
            "a collection holds native tables and cannot be copied or pickled: make another one of the same configs, "
            "and give it this one's state with load_state_dict(collection.state_dict()), or save each table with "
            "Table.save(folder)"
        )


def outputs_of(tables: Sequence[TableConfig]) -> list[Output]:
    """The vectors that a collection of ``tables`` gives, in order."""
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


def output_dims(tables: Sequence[TableConfig]) -> dict[str, int]:
    """Output name -> width, in output order."""
    by_name = {table.name: table for table in tables}
    return {out.name: by_name[out.table].vector_width(out.feature) for out in outputs_of(tables)}
