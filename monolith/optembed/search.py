"""The search: the supernet stands still, and candidates' widths are judged by the validation part.

The rows of a candidate follow from its widths and the bytes: of the rows that the learnt thresholds keep, those are
left out that are nearest to their table's threshold, until the rest fits (`budget.Cuts`). So every candidate fits, and
narrow ones keep more rows. All that was scored stands in ``search.jsonl``, from which an interrupted search goes on.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from monolith.errors import CorruptError, InputError
from monolith.optembed.budget import Cuts, kept
from monolith.optembed.evolution import Generation, Widths, evolve
from monolith.optembed.supernet import Supernet, sizes
from monolith.tables.arguments import Ids, Matrix
from monolith.tables.batch import Batch
from monolith.training.evaluation import Evaluation
from monolith.training.fitting import SCORE_BATCH, Tell, is_lower_better, metric_of
from monolith.training.sample_file import SampleFile

LOG = "search.jsonl"


class Scored(msgspec.Struct, frozen=True):
    """A candidate, as it stands in the log."""

    generation: int
    widths: dict[str, int]  # by table
    rows: dict[str, int]
    bytes: int
    cut: float  # above the learnt thresholds
    score: float  # by fit.metric, on the validation part


class _Rows(NamedTuple):
    ids: Ids  # ascending
    values: Matrix
    scores: npt.NDArray[np.float64]  # size less threshold


class Frozen:
    """A trained supernet that is only read."""

    def __init__(self, net: Supernet, validation: SampleFile, most: int | None) -> None:
        """``most``: how many samples of the validation part judge, from its beginning; None: all."""
        self.job, self._net, self._validation, self._most = net.job, net, validation, most
        self.metric = metric_of(net.job)
        self.tables = [table for table in net.job.tables if table.name in net.thresholds]
        self.rows = {table.name: self._rows_of(table.name) for table in self.tables}

    def _rows_of(self, name: str) -> _Rows:
        ids, values = self._net.tables[name].published()[name].rows()
        return _Rows(ids, values, sizes(values).astype(np.float64) - self._net.thresholds[name])

    def score(self, widths: Widths, cut: float) -> float:
        """`fit.metric` with these widths and rows above ``cut``. Raises InputError where it does not exist."""
        values = {t.name: self._left(t.name, width, cut) for t, width in zip(self.tables, widths, strict=True)}
        evaluation = Evaluation(self.job.labels)
        for batch in self._validation.batches(SCORE_BATCH):
            if self._most is not None and evaluation.samples + len(batch) > self._most:
                batch = batch[: self._most - evaluation.samples]
            if not len(batch):
                break
            matrix = self._matrix(batch, values)
            evaluation.add(batch, self._net.said_of(matrix, batch.dense))
        score = float(getattr(next(iter(evaluation.scores().values())), self.metric))
        if not math.isfinite(score):
            raise InputError(
                f"{self.metric} of {evaluation.samples:,} samples of the validation part is {score}: they need labels "
                f"of both kinds; give more --search-samples, or another `fit.validation`"
            )
        return score

    def _left(self, name: str, width: int, cut: float) -> Matrix:
        rows = self.rows[name]
        left = rows.values * kept(rows.scores, cut)[:, None]
        left[:, width:] = 0
        return left

    def _matrix(self, batch: Batch, values: Mapping[str, Matrix]) -> Matrix:
        matrix = np.zeros((len(batch), sum(self._net.vectors.values())), np.float32)
        self._net.others.read_into(matrix, batch.bags, None)
        for read in self._net.reads:
            keys = read.keys(batch.bags)
            for columns, vectors in read.pooled(keys, self._found(read.name, keys.ids, values[read.name])):
                matrix[:, columns] = vectors
        return matrix

    def _found(self, name: str, ids: Ids, values: Matrix) -> Matrix:
        """The rows of ``ids``; zeros for those that have none."""
        own = self.rows[name].ids
        if not len(own):
            return np.zeros((len(ids), values.shape[1]), np.float32)
        places = np.minimum(np.searchsorted(own, ids), len(own) - 1)
        found: Matrix = values[places] * (own[places] == ids)[:, None]
        return found


def search(
    frozen: Frozen,
    cuts: Cuts,
    log: Path,
    *,
    generations: int,
    population: int,
    tell: Tell,
    say: Callable[[str], None],
) -> Scored:
    """The best candidate that fits. What ``log`` has already is not scored again; the rest is appended."""
    _mend(log)
    known = {tuple(one.widths.values()): one for one in read_log(log)}
    sign = -1.0 if is_lower_better(frozen.metric) else 1.0
    names = [table.name for table in frozen.tables]
    most, done = population * (generations + 1), 0

    def score(widths: Widths, generation: int) -> float:
        nonlocal done
        if widths not in known:
            one = _scored(frozen, cuts, dict(zip(names, widths, strict=True)), generation)
            if one is None:
                return -np.inf
            _append(log, one)
            known[widths] = one
        done += 1
        tell("search", done, most)
        return sign * known[widths].score

    best: Generation | None = None
    dims = [table.dim for table in frozen.tables]
    for best in evolve(dims, score, generations=generations, population=population, seed=frozen.job.seed):
        say(f"generation {best.number}/{generations}  best {_words(known[best.best.widths], frozen.metric)}")
    assert best is not None
    return known[best.best.widths]


def _scored(frozen: Frozen, cuts: Cuts, widths: dict[str, int], generation: int) -> Scored | None:
    genes = tuple(widths.values())
    cut = cuts.lowest(genes)
    if cut is None:
        return None
    rows = cuts.rows(cut)
    return Scored(generation, widths, rows, cuts.bytes_of(genes, rows), cut, frozen.score(genes, cut))


def _words(one: Scored, metric: str) -> str:
    tables = ", ".join(f"{name} {one.rows[name]:,} x {width}" for name, width in one.widths.items())
    return f"{metric} {one.score:.4f}, {one.bytes:,} bytes ({tables})"


def read_log(path: Path) -> list[Scored]:
    """What was scored so far, in order; a last line that was cut off is left out. Raises CorruptError."""
    if not path.exists():
        return []
    try:
        return [msgspec.json.decode(line, type=Scored) for line in path.read_bytes().split(b"\n")[:-1]]
    except msgspec.DecodeError as error:
        raise CorruptError(f"{path} cannot be read: {error}; remove it to have the search done anew") from None


def _mend(path: Path) -> None:
    """Take away what a kill left of a line."""
    if path.exists():
        data = path.read_bytes()
        os.truncate(path, data.rfind(b"\n") + 1)


def _append(path: Path, one: Scored) -> None:
    with path.open("ab") as file:
        file.write(msgspec.json.encode(one) + b"\n")
