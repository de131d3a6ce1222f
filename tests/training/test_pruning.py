"""Online, a threshold keeps the ids that the labels depend on, lets the others go, and admits new ones."""

from __future__ import annotations

import numpy as np
from batches import batch_of

from monolith.config import InputConfig, JobConfig, ModelConfig, TableConfig
from monolith.config.optimizers import Adagrad
from monolith.training.learner import Learner

TABLE = TableConfig(name="user", dim=1, kind="optembed", optimizer=Adagrad(lr=0.15), threshold=0.5, probation_s=60)
JOB = JobConfig(name="j", input=InputConfig(samples="memory://s"), tables=[TABLE], model=ModelConfig(kind="lr"))
SHARES = np.array([0.95, 0.5, 0.05])  # of positives, by the rest of the id


def online(learner: Learner, first: int, last: int) -> None:
    """Steps one second apart, of 30 ids, and from step 100 on of 30 others; a bounded sweep after each."""
    for step in range(first, last):
        rng = np.random.default_rng(step)
        users = rng.integers(0, 30, 64) + (30 if step >= 100 else 0)
        labels = rng.random(64) < SHARES[users % 3]
        rows = [{"user": int(user)} for user in users]
        learner.step(batch_of(JOB, rows, labels, times_ms=[step * 1000] * 64))
        learner.advance(step * 1000, 16)


def kept(learner: Learner) -> np.ndarray:
    return learner.tables["user"].published()["user"].rows()[0]


def test_ids_that_matter_keep_their_rows_and_the_others_lose_them():
    """Those of the others that still come return as new ids, and go for good when they come no more."""
    learner = Learner(JOB)
    online(learner, 0, 55)
    assert len(kept(learner)) == 30  # all are on probation
    online(learner, 55, 100)
    stats = learner.tables["user"].stats()
    assert stats.pruned >= 9
    assert stats.admitted - stats.pruned == len(kept(learner))
    online(learner, 100, 220)
    matter = {user for user in range(60) if user % 3 != 1}
    left = set(kept(learner).tolist())
    assert matter <= left  # of the first 30, whose rows are old, and of the others
    assert len({user for user in left - matter if user < 30}) <= 2
    sizes = np.abs(learner.tables["user"].lookup(np.array(sorted(matter)))).mean(axis=1)
    assert sizes.min() > 0.5


def test_a_learner_that_was_restored_prunes_the_same_rows_at_the_same_steps(tmp_path):
    whole, before = Learner(JOB), Learner(JOB)
    online(whole, 0, 150)
    online(before, 0, 83)
    before.save(tmp_path)
    after = Learner(JOB)
    after.load(tmp_path)
    online(after, 83, 150)
    assert whole.tables["user"].stats().pruned == after.tables["user"].stats().pruned >= 9
    for left, right in zip(*(x.tables["user"].published()["user"].rows() for x in (whole, after)), strict=True):
        np.testing.assert_array_equal(left, right)
