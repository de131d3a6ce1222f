from __future__ import annotations

import numpy as np
import pytest

from monolith.config import parse_job
from monolith.datasets.judging import SHARDS, Judge, References, log_odds
from monolith.tables.batch import NO_GROUP, Bag, Batch
from monolith.training.learner import Learner

RNG = np.random.default_rng(1)


def test_a_level_that_moves_spoils_gauc_and_leaves_lists_alone():
    users = np.repeat([1, 2, 3, 4], 100)
    lists = np.arange(400) // 10
    labels = (RNG.random(400) < 0.5).astype(np.float32)
    merit = (labels * 0.2 + RNG.random(400) * 0.3).astype(np.float32)
    level = (np.arange(400) // 10 % 2).astype(np.float32)  # the same within a list
    judge = Judge(labels, users, lists)
    still, moving = judge.score(merit, merit, merit), judge.score(merit + level, merit + level, merit)
    assert moving.whole["gauc"] < still.whole["gauc"] - 0.1
    assert moving.whole["lists"] == pytest.approx(still.whole["lists"], abs=1e-6)
    assert moving.whole["ranking"] == pytest.approx(still.whole["gauc"], abs=1e-6)


def test_shards_are_equal_parts_and_a_part_of_one_class_has_no_value():
    labels = np.r_[np.ones(10), RNG.random(190) < 0.5].astype(np.float32)
    score = Judge(labels, np.full(200, NO_GROUP), np.full(200, NO_GROUP)).score(labels, labels, None)
    assert len(score.shards["auc"]) == SHARDS
    assert score.shards["auc"][0] is None
    assert score.shards["auc"][5] == 1.0
    assert score.whole == {"auc": 1.0, "gauc": None, "lists": None, "ranking": None}


@pytest.fixture
def learner_and_samples():
    job = parse_job("""
name: x
input: {samples: log://x}
tables:
  - {name: user, dim: 1, optimizer: {kind: adagrad, lr: 1.0}}
  - {name: item, dim: 1, optimizer: {kind: adagrad, lr: 1.0}}
model: {kind: lr}
""", "x.yaml")  # fmt: skip
    n = 64
    ids = {"user": np.arange(n) % 4, "item": np.arange(n) % 7}
    samples = Batch(
        bags={name: Bag(values.astype(np.int64), np.ones(n, np.int32)) for name, values in ids.items()},
        dense={},
        labels=(RNG.random((n, 1)) < 0.5).astype(np.float32),
        rates=np.ones(n, np.float32),
        event_time_ms=np.zeros(n, np.int64),
        ingestion_time_ms=np.zeros(n, np.int64),
        groups=ids["user"].astype(np.int64),
        late=np.zeros(n, np.bool_),
    )
    learner = Learner(job)
    for _ in range(3):
        learner.step(samples)
    return learner, samples


def test_what_is_left_apart_from_the_level_is_the_items_alone(learner_and_samples):
    learner, samples = learner_and_samples
    left = References(samples, ["item"]).centred(learner, samples, learner.score(samples))
    items = samples.bags["item"].ids
    for item in range(7):  # of a linear model: the same for every user
        assert np.ptp(left[items == item]) < 1e-4
    assert np.ptp(left) > 0.1
    assert np.ptp(log_odds(learner.score(samples))[items == 0]) > 0.1
