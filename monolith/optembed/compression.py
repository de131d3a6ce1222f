"""The three stages on samples that were read: the supernet, the search, and the retraining of what is left.

Each goes on where an earlier call was interrupted: the supernet's epochs lie in one folder, which searches for several
numbers of bytes share, all else in a folder of the number.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from monolith.config import JobConfig
from monolith.disk import make_folder, write_durably
from monolith.optembed.budget import Cuts, kept, table_bytes
from monolith.optembed.epochs import KeptEpochs
from monolith.optembed.outcome import Found, small_size
from monolith.optembed.retrain import compact_job, compact_learner
from monolith.optembed.search import LOG, Frozen, Scored, search
from monolith.optembed.supernet import Supernet
from monolith.tables.arguments import Ids
from monolith.training.fitting import Epoch, Tell, lasting
from monolith.training.sample_file import SampleFile

Say = Callable[[str], None]
ALPHA, THRESHOLD_LR = 1e-4, 1e-2


class Options(NamedTuple):
    """How the stages are done."""

    max_bytes: int  # of all searched tables together
    alpha: float  # how much thresholds are pulled up
    threshold_lr: float
    generations: int
    population: int
    search_samples: int | None  # of the validation part, from its beginning; None: all


class Compression:
    """The stages of one job and number of bytes. ``tell`` hears of progress, ``say`` gets lines for people."""

    def __init__(self, job: JobConfig, options: Options, folders: tuple[Path, Path], tell: Tell, say: Say) -> None:
        """``folders``: of the supernet, and of all else."""
        self._job, self._options, self._tell, self._say = job, options, tell, say
        self._supernet, self._own = folders
        make_folder(self._own)

    def found(self, train: SampleFile, validation: SampleFile) -> Found:
        """The rows and columns that the search found, now or in an earlier call."""
        path = self._own / "found.json"
        if not path.exists():
            net, score = self._trained(train, validation)
            frozen = Frozen(net, validation, self._options.search_samples)
            scores = {name: rows.scores for name, rows in frozen.rows.items()}
            best = self._searched(frozen, Cuts(frozen.tables, scores, self._options.max_bytes))
            np.savez(self._own / "kept.npz", **_kept_ids(frozen, best.cut))  # type: ignore[arg-type]
            write_durably(path, msgspec.json.encode(_found_of(net, frozen, best, score)))
        return msgspec.json.decode(path.read_bytes(), type=Found)

    def retraining(self, found: Found, train: SampleFile, validation: SampleFile) -> tuple[JobConfig, KeptEpochs]:
        """The job with what was found, and its epochs, to be done."""
        job = compact_job(self._job, found.widths)
        with np.load(self._own / "kept.npz") as arrays:
            ids: dict[str, Ids] = {name: arrays[name] for name in found.widths}
        return job, KeptEpochs(job, compact_learner(job, ids), train, validation, self._own / "retrain", self._tell)

    def _trained(self, train: SampleFile, validation: SampleFile) -> tuple[Supernet, float]:
        options = self._options
        net = Supernet(lasting(self._job), alpha=options.alpha, threshold_lr=options.threshold_lr)
        epochs = KeptEpochs(self._job, net, train, validation, self._supernet, self._tell)
        for epoch in epochs.epochs():
            learnt = ", ".join(f"{name} {t:.4g}" for name, t in net.thresholds.items())
            self._say(f"supernet {epoch_line(epoch, epochs)}  thresholds {learnt}")
        return net, epochs.best_score

    def _searched(self, frozen: Frozen, cuts: Cuts) -> Scored:
        options = self._options
        return search(
            frozen,
            cuts,
            self._own / LOG,
            generations=options.generations,
            population=options.population,
            tell=self._tell,
            say=self._say,
        )


def epoch_line(epoch: Epoch, epochs: KeptEpochs) -> str:
    """An epoch, for people."""
    score = epochs.scores[-1]
    return (
        f"epoch {epoch.number}  {epochs.metric} {score:.4f}  {epoch.seconds:.1f} s{'  best' if epoch.is_best else ''}"
    )


def _kept_ids(frozen: Frozen, cut: float) -> dict[str, Ids]:
    return {name: rows.ids[kept(rows.scores, cut)] for name, rows in frozen.rows.items()}


def _found_of(net: Supernet, frozen: Frozen, best: Scored, full_score: float) -> Found:
    left = {name: rows.values[kept(rows.scores, best.cut)] for name, rows in frozen.rows.items()}
    return Found(
        widths=best.widths,
        rows=best.rows,
        bytes=best.bytes,
        cut=best.cut,
        score=best.score,
        thresholds={name: t + best.cut for name, t in net.thresholds.items()},
        small_sizes={name: small_size(rows) for name, rows in left.items()},
        full_rows={name: len(rows.ids) for name, rows in frozen.rows.items()},
        full_bytes=sum(table_bytes(t, t.dim, len(frozen.rows[t.name].ids)) for t in frozen.tables),
        full_score=full_score,
    )
