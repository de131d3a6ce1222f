"""Puts a job's parts together: streams, learner, store and state folder become one `Trainer`.

The state folder of a job::

    state/
      journal/     the step journal, which also names the run (its lineage) and has the settings of its steps
      milestones/  earlier cuts that stay for `monolith rollback`
      rolled_back/ what `monolith rollback` put aside
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
from itertools import takewhile
from pathlib import Path
from typing import Protocol

from monolith.commands.eras import Era, next_era, recorded_era, settled
from monolith.config import JobConfig
from monolith.config.advice import advice
from monolith.config.changes import changes, words
from monolith.config.deciding import settings_of
from monolith.config.references import check_late
from monolith.disk import files_for, make_folder, read_by_others, remedy
from monolith.errors import ConfigError, DataLossError
from monolith.serving.publisher import Publisher
from monolith.serving.store import open_store
from monolith.streaming.journal import Journal
from monolith.streaming.steps import StepReader
from monolith.training.learner import Learner
from monolith.training.rollback import check_no_rollback
from monolith.training.snapshot import Snapshot, Snapshots
from monolith.training.start import has_begun, read_start
from monolith.training.status import Status, StatusFile
from monolith.training.trainer import Trainer

log = logging.getLogger(__name__)

Observers = list[Callable[[Status], None]]
NewLearner = Callable[[JobConfig, int], Learner]  # of a job, for the steps from a number on


class OpenSteps(Protocol):
    """Opens a job's reader, as `StepReader.open` does."""

    def __call__(self, job: JobConfig, journal: Journal, *, replay_only: bool, until: int | None) -> StepReader:
        """With the streams of ``job``, and ``journal``, which is the reader's from now on."""


def alone(job: JobConfig, _: int) -> Learner:
    """The learner of a process that trains alone."""
    return Learner(job)


def run_eras(
    job: JobConfig,
    run: Callable[[Trainer], None] = Trainer.run,
    *,
    replay: Path | None = None,
    start: Snapshot | None = None,
    observers: Observers | None = None,
    new_learner: NewLearner = alone,
    open_steps: OpenSteps = StepReader.open,
) -> Trainer:
    """Have ``run`` run a trainer for each era of the job, one after the other; the last one is returned, closed.

    A switch of settings is a snapshot, and a trainer that goes on from it. ``new_learner`` makes each era's model, and
    ``open_steps`` its reader. See `open_trainer` for the rest.
    """
    while True:
        trainer = _run_era(job, run, replay, start, observers, new_learner, open_steps)
        if trainer is not None:
            return trainer


def _run_era(
    job: JobConfig,
    run: Callable[[Trainer], None],
    replay: Path | None,
    start: Snapshot | None,
    observers: Observers | None,
    new_learner: NewLearner,
    open_steps: OpenSteps,
) -> Trainer | None:
    """None where another era follows: nothing of this one's model is in memory then."""
    with open_trainer(
        job, replay=replay, start=start, observers=observers, new_learner=new_learner, open_steps=open_steps
    ) as trainer:
        run(trainer)
        if trainer.stopped or not trainer.steps.at_switch:
            return trainer
    log.info("other settings hold from step=%d on", trainer.step + 1)
    return None


@contextmanager
def open_trainer(
    job: JobConfig,
    *,
    replay: Path | None = None,
    start: Snapshot | None = None,
    observers: Observers | None = None,
    new_learner: NewLearner = alone,
    open_steps: OpenSteps = StepReader.open,
) -> Iterator[Trainer]:
    """A trainer that stands where its state folder says, with its store taken over; everything closes on the way out.

    It makes the steps of one era: journalled steps that wait are made again under the settings that they were
    journalled with, and where the job has others, the trainer is then at a switch, and the next one that is opened has
    them. With ``replay`` the steps are those of that journal folder, which is only read, under the settings that the
    folder has of them, from ``start`` on (None: step 1), and no more.
    """
    check_late(job, "input", "store")
    with files_for(job.files), _opened(job, replay, start, observers, new_learner, open_steps) as trainer:
        yield trainer


def state_folder(job: JobConfig) -> Path:
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
def _opened(
    job: JobConfig,
    replay: Path | None,
    start: Snapshot | None,
    observers: Observers | None,
    new_learner: NewLearner,
    open_steps: OpenSteps,
) -> Iterator[Trainer]:
    state = state_folder(job)
    snapshots = Snapshots(state / "snapshots", keep=job.train.keep_snapshots)
    if replay is None:
        _check_journal(state, snapshots)
    with ExitStack() as stack:
        journal = Journal(replay or state / "journal", read_only=replay is not None)
        stack.callback(journal.close)
        if replay is None:  # the journal's lock says that nobody else writes here
            check_no_rollback(state)
            _remove_unfinished(state, snapshots)
        newest = snapshots.newest() or start
        era = _era(journal, newest, job)
        job = era.job
        steps = open_steps(job, journal, replay_only=replay is not None, until=era.until)
        stack.callback(steps.close)
        learner = new_learner(job, era.since)
        publisher = _open_publisher(job, learner)
        if publisher is not None:
            stack.callback(publisher.close)
        status = StatusFile(state / "status.json", observers=observers)
        trainer = Trainer(
            learner, steps, snapshots, lineage=steps.lineage, settings=era.settings, publisher=publisher, status=status
        )
        if newest is not None:
            _restore(trainer, journal, newest, state, era)
            if _is_owed(journal, trainer.step):
                trainer.owe()
        elif (begin := read_start((replay or state / "journal").parent)) is not None:
            trainer.begin_from(begin)
        if era.is_new:  # not before it is known that the snapshot can be gone on from under the new settings
            journal.settle(era.since, era.settings)
        if replay is None:
            learner.begin(state, trainer.step)
        trainer.history.expect(steps.publishes_after(trainer.step))
        if publisher is not None:
            publisher.start(learner.card(steps.lineage), learner.export(state), trainer.history)
        yield trainer


def _check_journal(state: Path, snapshots: Snapshots) -> None:
    check_no_rollback(state)
    if snapshots.named() and not has_begun(state):
        raise ConfigError(
            f"{state} has snapshots but no step journal: restore {state / 'journal'}, or move {state} away"
        )


def _open_publisher(job: JobConfig, learner: Learner) -> Publisher | None:
    if job.store is None:
        return None
    store = open_store(job.store, job.name)
    return Publisher(store, learner.hand_over(store))


def _restore(trainer: Trainer, journal: Journal, newest: Snapshot, state: Path, era: Era) -> None:
    """From the snapshot alone, or with the newer rows that ranks left when another was lost."""
    if trainer.learner.ranks and not journal.read_only:
        from monolith.training.sharding.recovery import recovered  # torch.distributed comes with it

        if recovered(trainer, journal, newest, state, era.until):
            return
    for entry in journal.recoveries:
        if entry.recovered_after > newest.manifest.step:
            log.warning("steps are trained again after step=%d, nothing is lost: %s", newest.manifest.step, entry)
    trainer.restore(newest)


def _is_owed(journal: Journal, reached: int) -> bool:
    """Whether nothing was published by step ``reached`` since the run went on without what was lost."""
    since = max((e.recovered_after for e in journal.recoveries if e.recovered_after <= reached), default=None)
    if since is None or since + 1 < journal.first_step or journal.read_only:
        return False
    steps = journal.read(since + 1) if since < journal.last_step else iter(())
    return not any(step.publish for step in takewhile(lambda step: step.step <= reached, steps))


def _check_repeatable(journal: Journal, reached: int) -> None:
    """Raise ConfigError where steps after ``reached`` cannot be repeated, since the run had lost rows meanwhile."""
    for entry in journal.recoveries:
        if entry.recovered_after > reached:
            raise ConfigError(
                f"the run's bits cannot be repeated from step {reached + 1} on: {entry}. Start the replay --from a "
                f"snapshot of step {entry.recovered_after} or later"
            )


def _era(journal: Journal, newest: Snapshot | None, job: JobConfig) -> Era:
    """What the trainer is to make after ``newest``, the snapshot that it goes on from."""
    reached = newest.manifest.step if newest else 0
    if journal.first_step > reached + 1:
        raise DataLossError(_trimmed(journal, reached))
    if journal.read_only:
        _check_repeatable(journal, reached)
    held = settled(journal, newest, job)
    if not journal.read_only:
        era = next_era(journal, held, reached, job)
    elif reached < journal.last_step:
        era = recorded_era(journal, held, reached, job)
    else:
        raise ConfigError(
            f"the journal {journal.folder} ends at step {journal.last_step}: nothing follows on {reached}"
        )
    if era.until is None:
        for sentence in advice(era.job):
            log.warning("%s", sentence)
        if differing := changes(era.settings, settings_of(job)):
            log.warning("the run's own settings are repeated, not all of the job's: %s", words(differing))
    return era


def _remove_unfinished(state: Path, snapshots: Snapshots) -> None:
    """Give back the room of what a killed process left; the journal has done so already."""
    snapshots.remove_leftovers()
    for name in ("job.tmp", "status.tmp", "graph-*.tmp"):
        for leftover in state.glob(name):
            leftover.unlink(missing_ok=True)


def _trimmed(journal: Journal, reached: int) -> str:
    begins = f"the step journal begins at step {journal.first_step}, the steps before it were trimmed"
    if journal.read_only:
        wanted = f"follows on step {reached}" if reached else "repeats a run from step 1"
        return (
            f"{begins}: this replay {wanted}. Start it --from a snapshot of step {journal.first_step - 1} or later; "
            f"a run with train.keep_journal: true keeps all steps"
        )
    where = f"the newest snapshot is of step {reached}" if reached else "there is no snapshot"
    return f"{begins}, but {where}: restore the snapshots that belong to it, or move the state folder away"
