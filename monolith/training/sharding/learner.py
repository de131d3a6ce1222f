"""One rank's half of a model that several train: its parts of the tables, and the dense part on its share of a batch.

Dense weights are on every rank, and the same: gradients are summed over the ranks before each makes the optimizer's
step. Where the job is to be exact, each rank has the whole batch's vectors sent instead and computes the whole dense
part, so that it makes the bits of a single process.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from monolith.config import JobConfig
from monolith.config.model_rules import is_own
from monolith.disk import write_durably
from monolith.errors import ConfigError
from monolith.tables import Table
from monolith.tables.batch import Batch
from monolith.tables.delta import Delta
from monolith.tables.kind_file import KEPT_FILE, read_kept
from monolith.tables.kinds import check_kind, write_kind_of
from monolith.training.devices import ToHost, to_device
from monolith.training.embeddings import outputs_of
from monolith.training.inputs import Inputs
from monolith.training.learner import Learner, Predictions
from monolith.training.loss import gradient_of, predictions_of
from monolith.training.modes import Modes
from monolith.training.sharding.collection import Asking, ShardedCollection
from monolith.training.sharding.rescue import Place
from monolith.training.sharding.sweeping import sweep_parts
from monolith.training.snapshot import FileEntry, file_entry


@dataclass(frozen=True, eq=False)
class Part:
    """What a rank has of one batch."""

    batch: Batch  # its samples; all of them where the job is exact
    samples: int  # of all ranks
    scales: Sequence[float]  # of each task, by which the gradient of the mean over ``batch`` is multiplied


def bounds(samples: int, ranks: int) -> list[int]:
    """Where each rank's samples begin, and where the last one's end: runs of them in order, as equal as can be."""
    return [samples * rank // ranks for rank in range(ranks + 1)]


def weights_of(batch: Batch) -> list[float]:
    """Of each task, what its labels weigh."""
    if batch.label_weights is None:
        return [float(len(batch))] * batch.labels.shape[1]
    return [float(each) for each in batch.label_weights.sum(axis=0, dtype=np.float64)]


def scales_of(own: Sequence[float], whole: Sequence[float]) -> list[float]:
    """The share of each task's mean that is a rank's; a task that weighs nothing has no gradient."""
    return [mine / of_all if of_all else 0.0 for mine, of_all in zip(own, whole, strict=True)]


class DividedLearner(Learner):
    """Every method is collective: all ranks call it, in the same order."""

    def __init__(self, job: JobConfig) -> None:
        """Raises ConfigError, on all ranks, for tables and networks that cannot be divided, or another job."""
        rules = job.sharding
        self.parts = ShardedCollection(
            job.tables, outputs_of(job.tables), exact=rules.exact, wire=rules.wire, limit_parts=rules.limit_parts
        )
        super().__init__(job, has_tables=False)
        self.transport = self.parts.transport
        self.rank, self.ranks = self.transport.rank, self.transport.ranks
        self.division = _division(job, self.parts, self.ranks)
        self._has_all = rules.exact or self.ranks == 1
        if not self._has_all:
            _check_network(self.model)
            own_seed = job.seed + self.rank
            self.modes = Modes(self.model, own_seed, always=is_own(job.model.kind), device=self.device)
        self.place = Place()
        self.made: dict[str, Delta] = {}  # this rank's part of the delta that was made last
        self._waiting: deque[Part] = deque()
        self._asked: Asking | None = None

    # --- a step -------------------------------------------------------------------------------------------------------

    def train(self, brought: Sequence[Part], *, asks: bool) -> Predictions | None:
        """One step on the first batch that waits, once ``brought`` wait too. On rank 0 the whole batch's predictions.

        ``asks``: the next one's ids are sent ahead, beside this one's dense part. Raises NonFiniteError on all ranks.
        """
        self._waiting += brought
        part = self._waiting.popleft()
        begin, end = self._own(part)
        self.place.begun += 1
        step = self.parts.forward(self._asked or self._ask(part))
        self._asked = self._ask(self._waiting[0]) if asks else None
        matrix = self._whole(step.vectors, part) if self._has_all else torch.from_numpy(step.vectors)
        matrix = to_device(matrix, self.device).requires_grad_()
        self.optimizer.zero_grad()
        said = ToHost(self._dense_part(matrix, part))
        summing = None if self._has_all else dist.all_reduce(self.optimizer.gradients, async_op=True)
        coming = ToHost(torch.zeros_like(matrix) if matrix.grad is None else matrix.grad)  # beside the sums
        step.apply_matrix(coming.wait()[begin:end].contiguous().numpy())
        self.place.applied += 1
        if summing is not None:
            summing.wait()
        self._dense_step()
        self.place.dense += 1
        return self._together(predictions_of(self.job.labels, said.wait()), part.samples)

    def _own(self, part: Part) -> tuple[int, int]:
        """Which of ``part.batch`` are this rank's samples."""
        if not self._has_all:
            return 0, len(part.batch)
        ends = bounds(part.samples, self.ranks)
        return ends[self.rank], ends[self.rank + 1]

    def _ask(self, part: Part) -> Asking:
        own = part.batch[slice(*self._own(part))]
        return self.parts.ask([own.bags[out.feature] for out in self.parts.outputs], own.event_time_ms)

    def _whole(self, vectors: np.ndarray[tuple[int, int], np.dtype[np.float32]], part: Part) -> Tensor:
        """The vectors of all ranks' samples, in order."""
        if self.ranks == 1:
            return torch.from_numpy(vectors)
        sizes = np.diff(bounds(part.samples, self.ranks)).tolist()
        own = torch.zeros(max(sizes), vectors.shape[1])
        own[: len(vectors)] = torch.from_numpy(vectors)
        everyones = [torch.empty_like(own) for _ in sizes]
        dist.all_gather(everyones, own)
        return torch.cat([each[:size] for each, size in zip(everyones, sizes, strict=True)])

    def _dense_part(self, matrix: Tensor, part: Part) -> Tensor:
        """Gradients of the whole batch's loss, as far as ``part.batch`` has a hand in it; what the model says of it."""
        batch, l2 = part.batch, self.job.model.embedding_l2
        if not len(batch):
            self.modes.pass_over()
            self._begin_asking()
            return torch.zeros(self._shape(0))
        self._inputs = inputs = Inputs(matrix, self.vectors, self._numbers(batch.dense))
        outputs, said = self.modes.forward(inputs)
        self._begin_asking()
        gradient = gradient_of(self.job.labels, outputs.detach(), batch)
        if not self._has_all:
            scales = torch.tensor(part.scales if outputs.dim() > 1 else part.scales[0], dtype=torch.float32)
            gradient *= to_device(scales, self.device)
        if l2:
            torch.autograd.backward([outputs, matrix], [gradient, matrix.detach() * (l2 / part.samples)])
        else:
            outputs.backward(gradient)  # type: ignore[no-untyped-call]
        return said

    def _begin_asking(self) -> None:
        if self._asked is not None:
            self._asked.begin()

    def _shape(self, samples: int) -> tuple[int, ...]:
        """Of the model's outputs."""
        return (samples,) if len(self.job.labels) == 1 else (samples, len(self.job.labels))

    def _together(self, said: Tensor, samples: int) -> Predictions | None:
        """On rank 0 the predictions of the whole batch, of which each rank has its samples' in ``said``."""
        if self._has_all:
            return said.numpy()
        sizes = np.diff(bounds(samples, self.ranks)).tolist()
        own = torch.zeros(self._shape(max(sizes)))
        own[: len(said)] = said
        everyones = [torch.empty_like(own) for _ in sizes] if self.rank == 0 else None
        dist.gather(own, everyones)
        if everyones is None:
            return None
        return torch.cat([each[:size] for each, size in zip(everyones, sizes, strict=True)]).numpy()

    # --- between steps ------------------------------------------------------------------------------------------------

    def advance(self, watermark_ms: int, sweep_rows: int) -> int:
        """As a single process's; the rows that went, of all ranks."""
        self.parts.advance(watermark_ms)
        removed = sweep_parts(self.transport, self.parts.divisions, self.parts.parts, sweep_rows)
        self.place.end_step()
        return removed

    @property
    def sequence(self) -> int:
        """The number that the next `cut` closes."""
        return self.parts.parts[0].table.sequence

    def cut(self) -> int:
        """Close the current sequence number in every table and return it."""
        return self.parts.cut()

    # --- this rank's parts --------------------------------------------------------------------------------------------

    def make(self, since: int) -> bytes:
        """Have in ``made`` what changed in this rank's parts of each table; the answer is empty. Raises GapError."""
        self.made = self.parts.deltas(since)
        return b""

    def save_own(self, folder: Path) -> dict[str, FileEntry]:
        """Write this rank's parts, ``TABLE/PART/table.bin``, durably; the entries of the files. Raises OSError."""
        written = {}
        for part in self.parts.parts:
            native = part.division.native
            name = "/".join([native.table.name, *filter(None, [native.folder]), f"{part.part:04d}"])
            path = part.table.save(folder / name)
            written[f"{name}/{path.name}"] = file_entry(path)
        for table in self.job.tables if self.rank == 0 else ():
            if (kind := write_kind_of(folder / table.name, table)) is not None:
                written[f"{table.name}/{kind.name}"] = file_entry(kind)
        for hot in self.parts.hot_tables if self.rank == 0 else ():
            path = folder / hot.name / KEPT_FILE
            write_durably(path, hot.index.kept())
            written[f"{path.parent.name}/{path.name}"] = file_entry(path)
        return written

    def load_own(self, folder: Path) -> None:
        """Take this rank's parts out of the tables below ``folder``, however they are divided there.

        Raises what `open_embedding` does.
        """

        def opened(number: int) -> Table:
            part = self.parts.parts[number]
            native, buckets = part.division.native, part.division.buckets(part.part)
            own = folder / native.table.name / native.folder
            table = Table.open(own, part.division.part_config(), buckets=buckets)
            native.check(table, own)
            return table

        for table in self.job.tables:
            check_kind(folder / table.name, table)
        with ThreadPoolExecutor() as at_once:
            tables = [*at_once.map(opened, range(len(self.parts.parts)))]
        for hot in self.parts.hot_tables:
            own = folder / hot.name
            hot.index.keep(read_kept(own), str(own / KEPT_FILE))
        self.parts.replace_parts(tables)


def _division(job: JobConfig, parts: ShardedCollection, ranks: int) -> str:
    """What of the division decides bits, beside the job's own settings: nothing where it makes a single process's."""
    rules, said = job.sharding, []
    if ranks > 1 and not rules.exact:
        said.append(f"{ranks} ranks")
    if rules.wire != "float32":
        said.append(f"wire {rules.wire}")
    if any(division.limited for division in parts.divisions):
        said.append(f"{rules.limit_parts} parts of a limit")
    return ", ".join(said)


def _check_network(model: torch.nn.Module) -> None:
    """Raise ConfigError for a network that keeps more than weights: each rank's would be of its own samples."""
    if kept := [name for name, _ in model.named_buffers()]:
        raise ConfigError(
            f"model: the network has running statistics or other buffers ({', '.join(kept[:3])}), of which each of "
            f"several processes would have its own: set sharding.exact to true, or use no batch norm (model.norm: "
            f"layer), or train in one process"
        )
