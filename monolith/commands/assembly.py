"""Puts a job's parts together: streams, learner, store and state folder become one `Trainer`.

The state folder of a job::

    state/
      journal/     the step journal, which also names the run (its lineage)
      snapshots/   the newest atomic cuts
      graph-*.onnx the dense part as exported for serving
      status.json  what the daemon last said of itself
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from monolith.config import JobConfig
from monolith.serving.publisher import Publisher
from monolith.serving.store import open_store
from monolith.streaming.steps import StepReader
from monolith.training.learner import Learner
from monolith.training.snapshot import Snapshots
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
    state = Path(job.state)
    state.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        steps = stack.enter_context(StepReader.open(job, replay or state / "journal", replay_only=replay is not None))
        learner = Learner(job)
        snapshots = Snapshots(state / "snapshots", keep=job.train.keep_snapshots)
        publisher = None
        if job.store is not None:
            publisher = Publisher(open_store(job.store, job.name))
            stack.callback(publisher.close)
        status = StatusFile(state / "status.json", observers=observers)
        trainer = Trainer(learner, steps, snapshots, lineage=steps.lineage, publisher=publisher, status=status)
        newest = snapshots.newest()
        if newest is not None:
            trainer.restore(newest)
        if publisher is not None:
            publisher.start(learner.card(steps.lineage), learner.export(state))
        yield trainer
