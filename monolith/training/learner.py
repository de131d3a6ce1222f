"""One job's model in memory: tables, dense weights and their optimizer. It scores samples and learns from them.

A step is a function of the learner's state and the samples alone, so the same samples in the same order end in the
same bits, in another process and after a save and a load as well.
"""

from __future__ import annotations

import logging
import os
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import torch

from monolith.card import CardFeature, CardTask, ModelCard
from monolith.config import JobConfig
from monolith.config.model_rules import is_own, sharing_faults
from monolith.disk import remedy, write_durably
from monolith.errors import ConfigError, NonFiniteError
from monolith.serving.publisher import HandOver
from monolith.serving.store import Store
from monolith.tables import set_threads
from monolith.tables.batch import Batch
from monolith.tables.delta import ModelDelta
from monolith.tables.embedding import Embedding
from monolith.tables.kinds import open_embedding
from monolith.tables.schema import card_features
from monolith.tables.table_step import end_step
from monolith.tables.tail import tail_sizes
from monolith.tables.vectors import kinds_of, published_dims
from monolith.training.dense_guard import LARGEST
from monolith.training.dense_optimizer import DenseOptimizer
from monolith.training.dense_state import dense_weights, load_dense_state, save_dense_state
from monolith.training.determinism import deterministic
from monolith.training.devices import ToHost, crossed, device_of, on_cpu, to_device
from monolith.training.embeddings import EmbeddingBagCollection, output_dims
from monolith.training.export import GRAPH_VERSION, DenseGraph, export_graph
from monolith.training.inputs import Inputs
from monolith.training.loss import gradient_of, predictions_of
from monolith.training.models import build_model
from monolith.training.modes import Modes
from monolith.training.snapshot import Entries

log = logging.getLogger(__name__)

Predictions = npt.NDArray[np.float32]  # (n,), or (n, tasks) where there are several; see `predictions_of`


class Learner:
    """Not thread-safe, except that the tables may be read from other threads."""

    division = ""  # how the work is divided between processes, where a step's bits depend on that
    ranks = 0  # processes that the tables are divided between; 0: they are in this one, whole

    def __init__(self, job: JobConfig, *, has_tables: bool = True) -> None:
        """``has_tables`` False: they are elsewhere, and the collection is empty."""
        for name, fault in sharing_faults(job.model.kind, job.tables):
            raise ConfigError(f"table {name!r}: {fault}")
        self.device = device_of(job.train.device)  # of the dense part
        deterministic(job.train.threads, self.device)
        set_threads(job.train.threads)
        self.job = job
        self.features = card_features(job)
        self.collection = EmbeddingBagCollection(job.tables if has_tables else [])
        # name -> width of what the network reads
        self.vectors = self.collection.dims if has_tables else output_dims(job.tables)
        self.dense = {f.name: f.config.width for f in self.features if not f.reads}
        self.model = build_model(job.model, self.vectors, self.dense, job.seed, len(job.labels), self.device)
        self.modes = Modes(self.model, job.seed, always=is_own(job.model.kind), device=self.device)
        self.optimizer = DenseOptimizer(job.dense_optimizer, self.model, self.device)
        self.graph: DenseGraph | None = None  # the exported form, held to the model at every delta
        self._inputs: Inputs | None = None  # of the newest batch

    @property
    def tables(self) -> Mapping[str, Embedding]:
        """The tables by name, in the job's order."""
        return self.collection.tables

    def step(self, batch: Batch, following: Batch | None = None) -> Predictions:  # noqa: ARG002
        """Predictions as they were before this step; afterwards one optimizer step has been made on all n.

        ``following`` is the next step's batch, where it is known: what can be done ahead for it may be.

        A dense gradient with NaN, infinity or a size that the optimizer would overflow by, or a running statistic that
        is no longer finite, meets the policy ``dense_optimizer.on_nonfinite``: dense weights and buffers stay as they
        are in this step, or NonFiniteError is raised. As the tables may have taken their part by then, the learner must
        then be restored.
        """
        inputs = self._read(batch, batch.event_time_ms)
        outputs, said = self.modes.forward(inputs)
        coming = ToHost(said)
        self._learn(outputs, inputs, batch)
        return predictions_of(self.job.labels, coming.wait()).numpy()

    def learn(self, batch: Batch) -> None:
        """The same step, to the same bits, without the predictions: one forward less where there is dropout."""
        inputs = self._read(batch, batch.event_time_ms)
        self._learn(self.modes.outputs(inputs), inputs, batch)

    def _learn(self, outputs: torch.Tensor, inputs: Inputs, batch: Batch) -> None:
        self.optimizer.zero_grad()
        self._backward(outputs, inputs.matrix, batch)
        self._dense_step()

    def _backward(self, outputs: torch.Tensor, matrix: torch.Tensor, batch: Batch) -> None:
        """Gradients of the loss; those of the rows go to the tables, with what ``model.embedding_l2`` adds to them."""
        gradient, l2 = gradient_of(self.job.labels, outputs.detach(), batch), self.job.model.embedding_l2
        if l2:
            towards_zero = matrix.detach() * (l2 / max(1, len(batch)))
            torch.autograd.backward([outputs, matrix], [gradient, towards_zero])
        else:
            outputs.backward(gradient)  # type: ignore[no-untyped-call]

    def _dense_step(self) -> None:
        unfit = self.optimizer.unfit_gradient() or self.modes.unfit_statistic()
        if unfit is None:
            self.optimizer.step()
        elif self.job.dense_optimizer.on_nonfinite == "skip_step":
            self.modes.undo()
            log.warning("dense step skipped: %s", unfit)
        else:
            raise NonFiniteError(
                f"{unfit}, allowed is up to {LARGEST:g}: look for the cause in the loss, the weights of bags and the "
                f"learning rates, or set dense_optimizer.on_nonfinite to skip_step and start again"
            )

    def score(self, batch: Batch) -> Predictions:
        """Predictions; nothing changes, no id is admitted."""
        self.collection.eval()
        try:
            with torch.no_grad():
                said = ToHost(self.model(self._read(batch, None))).wait()
            return predictions_of(self.job.labels, said).numpy()
        finally:
            self.collection.train()

    def _read(self, batch: Batch, times: npt.NDArray[np.int64] | None) -> Inputs:
        matrix = crossed(self.collection.forward_matrix(batch.bags, times), self.device)
        self._inputs = inputs = Inputs(matrix, self.vectors, self._numbers(batch.dense))
        return inputs

    def _numbers(self, columns: Mapping[str, npt.NDArray[np.float32]]) -> dict[str, torch.Tensor]:
        """Dense features where the network is."""
        return {name: to_device(torch.tensor(column), self.device) for name, column in columns.items()}

    def card(self, lineage: str) -> ModelCard:
        """What a replica must know about this model."""
        return ModelCard(
            model=self.job.name,
            lineage=lineage,
            tables=published_dims(self.job.tables),
            tails=tail_sizes(self.job.tables),
            kinds=kinds_of(self.job.tables),
            features=[_served(feature) for feature in self.features],
            tasks=[CardTask(name=task.name, loss=task.loss) for task in self.job.labels],
            kind=self.job.model.kind,
            ignore_unknown=self.job.input.unknown_features == "ignore",
            payload=self.job.publish.payload,
        )

    def export(self, cache: Path) -> bytes:
        """The dense part as ONNX, weights as inputs, kept in folder ``cache`` since an export takes seconds.

        That of a user's class is made anew: what the class does may have changed. Raises InputError for a model that
        is no graph, with torch's reason.
        """
        shape = [self.vectors, self.dense, len(self.job.labels)]
        asked = msgspec.json.encode([GRAPH_VERSION, self.job.model, *shape, str(torch.__version__)])
        stem = f"graph-{zlib.crc32(asked):08x}"
        graph = None if is_own(self.job.model.kind) else _kept_graph(cache, stem)
        if graph is None:
            graph = export_graph(on_cpu(self.model), {**self.vectors, **self.dense}, self.job.model.kind)
            _keep_graph(cache / f"{stem}-{zlib.crc32(graph):08x}.onnx", graph)
        self.graph = DenseGraph(graph)
        return graph

    def advance(self, watermark_ms: int, sweep_rows: int) -> int:
        """Move every table's clock to the stream's watermark and sweep a part; how many expired rows were removed."""
        return sum(end_step(table, watermark_ms, sweep_rows) for table in self.tables.values())

    @property
    def sequence(self) -> int:
        """The number that the next `cut` closes."""
        return {table.sequence for table in self.tables.values()}.pop()

    def cut(self) -> int:
        """Close the current sequence number in every table and return it."""
        return {table.cut() for table in self.tables.values()}.pop()

    def delta(
        self,
        since: int,
        *,
        sequence: int,
        step: int,
        watermark_ms: int,
        ingested_ms: npt.NDArray[np.int64],
        digest: str = "",
    ) -> ModelDelta:
        """Everything that changed after ``since``, with the dense weights as they are.

        Raises `GapError` as the tables do, and `CorruptError` if the exported graph no longer computes what torch does.
        """
        if self.graph is not None and self._inputs is not None:
            self.graph.check(on_cpu(self.model), self._inputs.on_cpu())
        return ModelDelta(
            base_sequence=since,
            sequence=sequence,
            step=step,
            watermark_ms=watermark_ms,
            tables={name: delta for table in self.tables.values() for name, delta in table.deltas(since).items()},
            dense=dense_weights(self.model),
            ingested_ms=ingested_ms,
            digest=digest,
        )

    def hand_over(self, store: Store) -> HandOver | None:  # noqa: ARG002
        """How a delta of this learner gets into a store, where ``Store.apply`` does not do it."""
        return None

    def begin(self, state: Path, step: int) -> None:
        """What was restored is whole: the steps after ``step`` are trained now, in the state folder ``state``."""

    def check_all_there(self) -> None:
        """Raises UnavailableError, or RuntimeError of torch.distributed, where a process that it takes is gone."""

    def beat(self) -> None:
        """Something is called from time to time, also when there is nothing to train on."""

    def save_tables(self, folder: Path) -> Entries | None:
        """Write every table to its own folder below ``folder``; the entries of files whose checksums are known."""
        for name, table in self.tables.items():
            (folder / name).mkdir()
            table.save(folder / name)
        return None

    def load_tables(self, folder: Path) -> None:
        """Replace the tables by the ones that `save_tables` wrote; on an error they stay as they were."""
        with ThreadPoolExecutor(os.cpu_count()) as at_once:
            opened = list(at_once.map(lambda table: open_embedding(folder / table.name, table), self.job.tables))
        self.collection.replace_tables({table.config.name: table for table in opened})

    def dense_state(self) -> bytes:
        """Dense weights and their optimizer's state, bit by bit."""
        return save_dense_state(self.model, self.optimizer, self.modes)

    def load_dense_state(self, data: bytes) -> None:
        """Continue from `dense_state` bytes."""
        load_dense_state(self.model, self.optimizer, data, self.modes)

    def save(self, folder: Path) -> None:
        """Keep the learner in an empty folder."""
        (folder / "tables").mkdir(parents=True)
        self.save_tables(folder / "tables")
        (folder / "dense.safetensors").write_bytes(self.dense_state())

    def load(self, folder: Path) -> None:
        """Be what `save` kept."""
        self.load_tables(folder / "tables")
        self.load_dense_state((folder / "dense.safetensors").read_bytes())


def _served(feature: CardFeature) -> CardFeature:
    """The feature as replicas know it: strings stay with the trainer."""
    return msgspec.structs.replace(feature, config=msgspec.structs.replace(feature.config, keep_strings=False))


def _kept_graph(cache: Path, stem: str) -> bytes | None:
    """The graph whose file has the checksum that its name says."""
    for path in cache.glob(f"{stem}-*.onnx"):
        with suppress(OSError):  # one that cannot be read is made again
            graph = path.read_bytes()
            if f"{zlib.crc32(graph):08x}" == path.stem.removeprefix(f"{stem}-"):
                return graph
    return None


def _keep_graph(path: Path, graph: bytes) -> None:
    """Keep the graph as the only one. A disk that refuses costs an export at the next start, and nothing else."""
    try:
        for other in path.parent.glob("graph-*.onnx"):
            other.unlink()  # damaged, or of an earlier model, features or torch
        write_durably(path, graph)
    except OSError as error:
        log.warning("the exported graph is not kept in %s: %s; %s", path, error, remedy(error))
