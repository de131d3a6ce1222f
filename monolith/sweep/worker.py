"""One process of a sweep: it fits one trial after another and tells what came of each.

Its conversation with the sweep: a `Task` comes; after each epoch a `Progress` goes, and True comes back to go on or
False to stop; at the end an `Outcome` goes. None instead of a task ends the process, and so does the sweep's own end.
"""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import NamedTuple

import msgspec

from monolith.config.load import job_from_json
from monolith.streaming.journal import Positions
from monolith.sweep.trials import Outcome
from monolith.training.fitting import Epoch, Fitter, write_fitted
from monolith.training.sample_file import SampleFile


class Task(NamedTuple):
    """A trial to be fitted, as it goes to a worker."""

    trial: str
    settings: list[str]
    job: bytes  # JSON; its `state` is the trial's own
    train: Path  # samples
    validation: Path
    positions: Positions  # where a run goes on that reads the same streams
    metric: str


class Progress(NamedTuple):
    """A trial after one of its epochs."""

    epoch: int
    score: float
    is_last: bool  # of those that the job asks for: there is nothing to stop any more


def work(channel: Connection) -> None:
    """Do what comes through ``channel``, until None comes or the sweep is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the sweep, which ends its workers
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while (task := channel.recv()) is not None:
        channel.send(outcome_of(task, lambda progress: _asked(channel, progress)))


def _asked(channel: Connection, progress: Progress) -> bool:
    channel.send(progress)
    return bool(channel.recv())


def _end_with_parent() -> None:
    """A sweep that was killed leaves no worker behind: the next one would write to the same folders."""
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def outcome_of(task: Task, goes_on: Callable[[Progress], bool]) -> Outcome:
    """Fit one trial; ``goes_on`` is asked after each epoch. An error becomes a failed outcome."""
    began = time.monotonic()
    job = job_from_json(task.job)
    state = Path(job.state)
    shutil.rmtree(state.parent, ignore_errors=True)  # of a trial that was killed
    scratch = state.parent / "fit.tmp"
    known = Outcome(
        trial=task.trial, settings=task.settings, seed=job.seed, status="failed", metric=task.metric, state=None
    )
    try:
        scratch.mkdir(parents=True)
        known = _fitted(task, scratch, known, goes_on)
    except Exception as error:  # whatever a trial dies of, the others go on
        known = msgspec.structs.replace(known, status="failed", error=f"{type(error).__name__}: {error}")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    seconds = round(time.monotonic() - began, 3)
    return msgspec.structs.replace(known, seconds=seconds, ended_ms=time.time_ns() // 1_000_000)


def _fitted(task: Task, scratch: Path, known: Outcome, goes_on: Callable[[Progress], bool]) -> Outcome:
    job = job_from_json(task.job)
    with SampleFile.reopen(task.train) as train, SampleFile.reopen(task.validation) as validation:
        fitter = Fitter(job, train, validation, scratch / "best", lambda *_: None)
        epochs: list[Epoch] = []
        for epoch in fitter.epochs():
            epochs.append(epoch)
            if not goes_on(Progress(epoch.number, _score(epoch, fitter), epoch.number == job.fit.epochs)):
                return _told(known, fitter, epochs, (len(train), len(validation)))
        write_fitted(fitter, epochs, task.positions)
    done = _told(known, fitter, epochs, (len(train), len(validation)))
    return msgspec.structs.replace(done, status="done", state=job.state)


def _told(known: Outcome, fitter: Fitter, epochs: list[Epoch], samples: tuple[int, int]) -> Outcome:
    best = [epoch for epoch in epochs if epoch.is_best][-1]
    return msgspec.structs.replace(
        known,
        status="stopped",
        score=_score(best, fitter),
        best_epoch=best.number,
        epochs=[_score(epoch, fitter) for epoch in epochs],
        scores={task: msgspec.structs.asdict(result) for task, result in best.scores.items()},
        samples=samples,
    )


def _score(epoch: Epoch, fitter: Fitter) -> float:
    return float(getattr(next(iter(epoch.scores.values())), fitter.metric))
