"""A job on several processes goes on after one was lost without training anew what the others have (`rescue`).

The Monolith paper argues for it: what is lost is little, and nobody waits for a repetition. What the reader and the
joiner hold is a function of the journal, so they are brought to the ranks' step by reading its records again, whichever
rank was lost; samples that come out are not trained on. Then there is a snapshot, and what was left is needed no more.
"""

from __future__ import annotations

import logging
from itertools import takewhile
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import xxhash

from monolith.errors import ConfigError, CorruptError
from monolith.streaming.journal import Journal, RecoveryEntry
from monolith.tables.batch import Batch
from monolith.tables.split import buckets_of
from monolith.training.sharding import rescue as rescues
from monolith.training.sharding.division import Division
from monolith.training.sharding.leader import LeadingLearner
from monolith.training.sharding.rescue import Rescue
from monolith.training.snapshot import Snapshot
from monolith.training.trainer import Trainer

log = logging.getLogger(__name__)

_AT_ONCE = 1 << 20  # ids that are counted before repeats among them go


def recovered(trainer: Trainer, journal: Journal, snapshot: Snapshot, state: Path, until: int | None) -> bool:
    """Have ``trainer`` go on with what ranks left in ``state``, if that can be; it stands nowhere yet.

    ``until`` is the last step of the settings that hold after ``snapshot``. False where nothing was left, or what was
    cannot be used, which is logged: then the trainer is to be restored from the snapshot, and loses nothing.
    """
    learner, rescue = trainer.learner, rescues.found(state)
    since = snapshot.manifest.step
    if rescue is None or rescue.step <= since or not isinstance(learner, LeadingLearner):
        return False
    if not learner.job.sharding.partial_recovery:
        reason: str | None = "sharding.partial_recovery is false"
    else:
        reason = rescues.fault(rescue, learner.ranks, since=since, until=until, journalled=journal.last_step)
    try:
        if reason is None:
            _recover(trainer, learner, rescue, journal, snapshot)
            return True
    except (ConfigError, CorruptError, OSError) as error:
        reason = str(error)
    log.warning("what ranks left in %s is of no use, all go back to step=%d: %s", rescue.folder, since, reason)
    return False


def _recover(trainer: Trainer, learner: LeadingLearner, rescue: Rescue, journal: Journal, snapshot: Snapshot) -> None:
    since = snapshot.manifest.step
    again = takewhile(lambda entry: entry.step <= rescue.step, journal.read(since + 1))
    sequence = snapshot.manifest.sequence + sum(entry.publish for entry in again)
    entry = RecoveryEntry(recovered_after=rescue.step, snapshot=since, lost=rescue.lost, ranks=rescue.ranks)
    trainer.restore(snapshot, lambda kept: learner.rejoin(rescue, kept.path / "tables", sequence))
    loss = Loss(learner, rescue.lost)
    while trainer.step < rescue.step:
        step = trainer.steps.next(timeout_s=0.1)
        learner.beat()
        if step is not None:
            loss.samples += len(step.batch)
            for batch in () if step.example is None else step.example.pieces(learner.job.train.batch_size):
                loss.add(batch)
            trainer.pass_over(step)
    trainer.went_on(xxhash.xxh3_128_digest(msgspec.msgpack.encode(entry)))
    journal.recovered(entry)
    trainer.snapshot()
    log.warning("partial recovery: %s; %s", entry, loss)


class Loss:
    """What lost ranks had learnt since a snapshot, at the most: as if all batches had been trained on.

    Where each rank reads partitions of its own, updates and rows are those by rank 0's.
    """

    def __init__(self, learner: LeadingLearner, lost: list[int]) -> None:
        self.samples = self.updates = 0
        self._by = " by rank 0's partitions" if learner.job.input.co_partitioned else ""
        self._divisions = learner.parts.divisions
        self._lost = [_parts_of(division, lost) for division in self._divisions]
        self._ids: list[npt.NDArray[np.int64]] = [np.zeros(0, np.int64) for _ in self._divisions]
        self._more: list[list[npt.NDArray[np.int64]]] = [[] for _ in self._divisions]

    def add(self, batch: Batch) -> None:
        """The updates of one batch."""
        for number, division in enumerate(self._divisions):
            keys = np.unique(np.concatenate(self._keys(division, batch)))
            own = keys[self._lost[number][division.owners.of_bucket[buckets_of(keys)]]]
            self.updates += len(own)
            self._more[number].append(own)
            if sum(map(len, self._more[number])) > _AT_ONCE:
                self._merge(number)

    def _keys(self, division: Division, batch: Batch) -> list[npt.NDArray[np.int64]]:
        """Those of a native table's rows."""
        read = [(name, np.asarray(batch.bags[name].ids)) for name in division.names]
        return [own for name, ids in read for own in division.native.keys(name, ids)]

    def _merge(self, number: int) -> None:
        self._ids[number] = np.unique(np.concatenate([self._ids[number], *self._more[number]]))
        self._more[number] = []

    @property
    def rows(self) -> int:
        """How many ids had an update."""
        for number in range(len(self._divisions)):
            self._merge(number)
        return sum(map(len, self._ids))

    def __str__(self) -> str:
        return f"samples read again={self.samples}, updates lost{self._by}={self.updates}, of rows={self.rows}"


def _parts_of(division: Division, ranks: list[int]) -> npt.NDArray[np.bool_]:
    """Whether each part is one of those of ``ranks``."""
    lost = np.zeros(division.parts, np.bool_)
    for rank in ranks:
        lost[division.of(rank)] = True
    return lost
