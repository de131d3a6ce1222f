"""Puts a job's parts together: streams, learner, store and state folder become one `Trainer`.

The state folder of a job::

    state/
      journal/     the step journal, which also names the run (its lineage)
      job.json     the settings that its newest steps were made with
      start/       the model that the run began from, if it was fitted or another run's
      snapshots/   the newest atomic cuts
      graph-*.onnx the dense part as exported for serving
      status.json  what the daemon last said of itself
      curves.jsonl what it said over time
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec

from monolith.config import JobConfig
from monolith.config.advice import advice
from monolith.config.changes import check_changes
from monolith.config.kept_job import keep_job, read_kept_job
from monolith.config.references import check_late
from monolith.disk import files_for, make_folder, read_by_others, remedy
from monolith.errors import ConfigError, DataLossError
from monolith.serving.publisher import Publisher
from monolith.serving.store import open_store
from monolith.streaming.steps import StepReader
from monolith.training.learner import Learner
from monolith.training.snapshot import Snapshot, Snapshots
from monolith.training.start import read_start
from monolith.training.status import Status, StatusFile
from monolith.training.trainer import Trainer

log = logging.getLogger(__name__)


@contextmanager
def open_trainer(
    job: JobConfig, *, replay: Path | None = None, observers: list[Callable[[Status], None]] | None = None
) -> Iterator[Trainer]:
    """A trainer that stands where its state folder says, with its store taken over; everything closes on the way out.

    With ``replay`` the steps are those of that journal folder, which is only read, and no more.
    """
    check_late(job, "input", "store")
    for sentence in advice(job):
        log.warning("%s", sentence)
    with files_for(job.files), _opened(job, replay, observers) as trainer:
        yield trainer


def _state_folder(job: JobConfig) -> Path:
    """The job's state folder, made where it is not there yet."""
    state = Path(job.state)
    try:
        make_folder(state)
        is_open = read_by_others(state, job.files)
    except OSError as error:
        raise ConfigError(f"cannot make the state folder {state}: {error}; {remedy(error)}") from error
    if is_open:
        rights = "go-rwx" if job.files == "owner" else "o-rwx"
        log.warning("others may look into the state folder: chmod -R %s %s, or set files: group", rights, state)
    return state


@contextmanager
def _opened(job: JobConfig, replay: Path | None, observers: list[Callable[[Status], None]] | None) -> Iterator[Trainer]:
    state = _state_folder(job)
    snapshots = Snapshots(state / "snapshots", keep=job.train.keep_snapshots)
    if snapshots.named() and replay is None and not any((state / "journal").glob("*.journal")):
        raise ConfigError(
            f"{state} has snapshots but no step journal: restore {state / 'journal'}, or move {state} away"
        )
    with ExitStack() as stack:
        steps = stack.enter_context(StepReader.open(job, replay or state / "journal", replay_only=replay is not None))
        if replay is None:  # the journal's lock says that nobody else writes here
            _remove_unfinished(state, snapshots)
        newest = snapshots.newest()
        reached = newest.manifest.step if newest else 0
        if steps.first_step > reached + 1:
            raise DataLossError(_trimmed(steps, reached, replay))
        pending = steps.last_step - reached
        _settle(state, job, pending, newest, replay)
        learner = Learner(job)
        publisher = None
        if job.store is not None:
            publisher = Publisher(open_store(job.store, job.name))
            stack.callback(publisher.close)
        status = StatusFile(state / "status.json", observers=observers)
        trainer = Trainer(learner, steps, snapshots, lineage=steps.lineage, publisher=publisher, status=status)
        if newest is not None:
            trainer.restore(newest)
        elif (start := read_start((replay or state / "journal").parent)) is not None:
            trainer.begin_from(start)
        trainer.history.expect(steps.publishes_after(trainer.step))
        if publisher is not None:
            publisher.start(learner.card(steps.lineage), learner.export(state), trainer.history)
        yield trainer


def _remove_unfinished(state: Path, snapshots: Snapshots) -> None:
    """Give back the room of what a killed process left; the journal has done so already."""
    snapshots.remove_leftovers()
    for name in ("job.tmp", "status.tmp", "graph-*.tmp"):
        for leftover in state.glob(name):
            leftover.unlink(missing_ok=True)


def _trimmed(steps: StepReader, reached: int, replay: Path | None) -> str:
    begins = f"the step journal begins at step {steps.first_step}, the steps before it were trimmed"
    if replay is not None:
        return f"{begins}: a replay repeats a run from step 1. Only a run with train.keep_journal: true keeps them all"
    where = f"the newest snapshot is of step {reached}" if reached else "there is no snapshot"
    return f"{begins}, but {where}: restore the snapshots that belong to it, or move the state folder away"


def _settle(state: Path, job: JobConfig, pending: int, newest: Snapshot | None, replay: Path | None) -> None:
    """Hold the job to the settings of the run so far, then keep its own as those of the steps to come.

    A replay makes all its steps with the settings that the run had last.
    """
    of_run = (replay or state / "journal").parent / "job.json"
    before = read_kept_job(of_run)
    if before is None and newest is not None:
        before = msgspec.json.encode(newest.manifest.job, order="sorted")
        log.warning("%s is not there: the settings of %s count for the steps since then", of_run, newest.path)
    elif before is None and pending:
        log.warning("%s is not there: nothing says with which settings %d journalled steps were made", of_run, pending)
    if before is not None and (newest is not None or pending):  # else nothing was made with them: all may change
        for key, (was, now) in check_changes(before, job, pending=pending).items():
            log.info("setting changed key=%s was=%r now=%r", key, was, now)
    keep_job(state / "job.json", job)
