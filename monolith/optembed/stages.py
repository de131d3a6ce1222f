"""The stages one after the other, in one folder; each goes on where an earlier call was interrupted.

DIR/
  plan.json            the job and settings that all in this folder is of
  samples/             what the streams held when they were read
  supernet/            its epochs
  bytes-N/             of each number of bytes
    plan.json  search.jsonl  found.json  kept.npz  retrain/
    serving.yaml  serving/  online.yaml  online/  outcome.json
"""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from monolith.config import JobConfig
from monolith.config.load import job_json
from monolith.disk import make_folder, write_durably
from monolith.errors import ConfigError
from monolith.optembed.budget import Cuts, check_bytes, kept, table_bytes
from monolith.optembed.epochs import KeptEpochs
from monolith.optembed.outcome import Found, Outcome, outcome_of, small_size, write_jobs, write_states
from monolith.optembed.retrain import compact_job, compact_learner
from monolith.optembed.search import LOG, Frozen, Scored, search
from monolith.optembed.supernet import Supernet, searched
from monolith.streaming.between import Between
from monolith.streaming.journal import Positions
from monolith.sweep.readings import Reading
from monolith.tables.arguments import Ids
from monolith.training.fitting import Epoch, Tell, lasting
from monolith.training.sample_file import SampleFile

Say = Callable[[str], None]
_BESIDE = ("state", "store", "publish", "serve", "files")  # keys of a job that change nothing here


class Options(NamedTuple):
    """How the stages are done; the command's options."""

    max_bytes: int
    alpha: float
    threshold_lr: float
    generations: int
    population: int
    search_samples: int | None


class Asked(NamedTuple):
    """What the user asked for."""

    job_file: Path
    sets: list[str]
    job: JobConfig
    part: Between
    folder: Path


class Stages:
    """One call. ``tell`` hears of progress, ``say`` gets lines for people."""

    def __init__(self, asked: Asked, options: Options, tell: Tell, say: Say) -> None:
        """Raises ConfigError and InputError for what cannot be, before anything is written."""
        self._asked, self._options, self._tell, self._say = asked, options, tell, say
        names = searched(asked.job)
        if not names:
            raise ConfigError(
                f"job {asked.job.name!r} has no table of kind optembed: say `kind: optembed` of those that are to be "
                f"searched"
            )
        given = [f"{t.name}.{key}" for t in asked.job.tables for key in ("width", "threshold") if _of(t, key, names)]
        if given:
            raise ConfigError(f"{', '.join(given)}: that is what is searched for; leave it out")
        check_bytes([table for table in asked.job.tables if table.name in names], options.max_bytes)
        self._supernet, self._own = asked.folder / "supernet", asked.folder / f"bytes-{options.max_bytes}"

    def check_plan(self) -> None:
        """Write down what is asked for. Raises ConfigError where the folder is of something else."""
        options = self._options
        job = {
            key: value for key, value in msgspec.json.decode(job_json(self._asked.job)).items() if key not in _BESIDE
        }
        part = [self._asked.part.from_ms, self._asked.part.until_ms]
        _agree(
            self._asked.folder, {"job": job, "part": part, "alpha": options.alpha, "threshold_lr": options.threshold_lr}
        )
        searching = ("generations", "population", "search_samples")
        _agree(self._own, {key: getattr(options, key) for key in searching})

    def run(self, reading: Reading) -> Outcome:
        """Do what is missing, and return what came of it."""
        path = self._own / "outcome.json"
        if path.exists():
            return msgspec.json.decode(path.read_bytes(), type=Outcome)
        with ExitStack() as files:
            parts = tuple(files.enter_context(SampleFile.reopen(p)) for p in (reading.train, reading.validation))
            self._say(f"{len(parts[0]):,} samples to train, {len(parts[1]):,} to judge")
            found = self._found(parts)
            return self._retrained(found, parts, reading.positions, path)

    def _found(self, parts: tuple[SampleFile, ...]) -> Found:
        path = self._own / "found.json"
        if not path.exists():
            net, score = self._trained(parts)
            frozen = Frozen(net, parts[1], self._options.search_samples)
            cuts = Cuts(
                frozen.tables, {name: rows.scores for name, rows in frozen.rows.items()}, self._options.max_bytes
            )
            best = self._searched(frozen, cuts)
            np.savez(self._own / "kept.npz", **_kept_ids(frozen, best.cut))  # type: ignore[arg-type]
            write_durably(path, msgspec.json.encode(_found_of(net, frozen, best, score)))
        return msgspec.json.decode(path.read_bytes(), type=Found)

    def _trained(self, parts: tuple[SampleFile, ...]) -> tuple[Supernet, float]:
        options = self._options
        net = Supernet(lasting(self._asked.job), alpha=options.alpha, threshold_lr=options.threshold_lr)
        epochs = KeptEpochs(self._asked.job, net, parts[0], parts[1], self._supernet, self._tell)
        for epoch in epochs.epochs():
            learnt = ", ".join(f"{name} {t:.4g}" for name, t in net.thresholds.items())
            self._say(f"supernet {_line(epoch, epochs)}  thresholds {learnt}")
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

    def _retrained(self, found: Found, parts: tuple[SampleFile, ...], positions: Positions, path: Path) -> Outcome:
        job = compact_job(self._asked.job, found.widths)
        with np.load(self._own / "kept.npz") as arrays:
            ids: dict[str, Ids] = {name: arrays[name] for name in found.widths}
        epochs = KeptEpochs(job, compact_learner(job, ids), parts[0], parts[1], self._own / "retrain", self._tell)
        for epoch in epochs.epochs():
            self._say(f"retrain {_line(epoch, epochs)}")
        outcome = outcome_of(job, found, epochs)
        jobs = write_jobs(self._asked.job_file, self._asked.sets, self._own, outcome)
        write_states(jobs, epochs, positions)
        write_durably(path, msgspec.json.encode(outcome))
        return outcome


def _of(table: Any, key: str, names: list[str]) -> bool:
    return table.name in names and getattr(table, key) is not None


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


def _line(epoch: Epoch, epochs: KeptEpochs) -> str:
    score = epochs.scores[-1]
    return (
        f"epoch {epoch.number}  {epochs.metric} {score:.4f}  {epoch.seconds:.1f} s{'  best' if epoch.is_best else ''}"
    )


def _agree(folder: Path, plan: dict[str, Any]) -> None:
    """Keep ``plan`` in the folder. Raises ConfigError, naming what differs, where another one is kept there."""
    make_folder(folder)
    path = folder / "plan.json"
    if path.exists():
        was, now = msgspec.json.decode(path.read_bytes()), msgspec.json.decode(msgspec.json.encode(plan))
        if differing := sorted(key for key in {*was, *now} if was.get(key) != now.get(key)):
            raise ConfigError(
                f"{folder} has results of another {', '.join(differing)}: give what was given before, another --dir, "
                f"or remove the folder"
            )
    else:
        write_durably(path, msgspec.json.encode(plan))


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep other calls out of the folder. Raises ConfigError where one is at work there."""
    make_folder(folder)
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"another `monolith optembed` is at work in {folder}: wait for it, or give another --dir"
            ) from None
        yield
