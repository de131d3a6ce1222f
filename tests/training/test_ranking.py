"""AUC and within-user AUC against scikit-learn."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from monolith.errors import CorruptError
from monolith.training.ranking import StreamingAUC, auc, gauc


def stream(kind: str, n: int = 120_000) -> tuple[np.ndarray, np.ndarray]:
    """Scores and labels that are related, of a nasty shape."""
    rng = np.random.default_rng(5)
    truth = rng.normal(size=n)
    labels = (rng.random(n) < 1 / (1 + np.exp(2.5 - truth))).astype(np.float32)
    noisy = truth + rng.normal(size=n)
    scores = {
        "smooth": noisy,
        "bunched": 3.0 + noisy * 1e-5,  # only a few hundred float32 values lie there
        "ties": np.round(noisy * 2),
        "half_ties": np.where(rng.random(n) < 0.5, 0.0, noisy),
        "sorted": np.sort(noisy),
        "heavy_tails": np.sinh(noisy * 4),
        "drifting": noisy * 1e-3 + np.linspace(0, 5, n),
    }[kind]
    return scores.astype(np.float32), labels


KINDS = ["smooth", "bunched", "ties", "half_ties", "sorted", "heavy_tails", "drifting"]


@pytest.mark.parametrize("kind", KINDS)
def test_exact_auc_equals_scikit_learn(kind):
    scores, labels = stream(kind, 5_000)
    assert math.isclose(auc(scores, labels), roc_auc_score(labels, scores), abs_tol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_streaming_auc_is_within_1e_4_of_scikit_learn(kind):
    scores, labels = stream(kind)
    streaming = StreamingAUC()
    for start in range(0, len(scores), 1_000):
        streaming.update(scores[start : start + 1_000], labels[start : start + 1_000])
    assert abs(streaming.area() - roc_auc_score(labels, scores)) < 1e-4


def test_streaming_auc_is_exact_while_its_bins_suffice():
    scores, labels = stream("ties")
    streaming = StreamingAUC(bins=256, buffer=1_000)
    for start in range(0, len(scores), 700):
        streaming.update(scores[start : start + 700], labels[start : start + 700])
    assert math.isclose(streaming.area(), roc_auc_score(labels, scores), abs_tol=1e-12)


def test_merged_streams_are_within_1e_4_of_the_whole():
    scores, labels = stream("smooth")
    left, right = StreamingAUC(), StreamingAUC()
    for part, start, stop in ((left, 0, 50_000), (right, 50_000, len(scores))):
        for at in range(start, stop, 1_000):
            part.update(scores[at : at + 1_000], labels[at : at + 1_000])
    left.merge(right)
    assert abs(left.area() - roc_auc_score(labels, scores)) < 1e-4


def test_memory_stays_bounded():
    scores, labels = stream("smooth")
    streaming = StreamingAUC(bins=1_000, buffer=2_000)
    for start in range(0, len(scores), 500):
        streaming.update(scores[start : start + 500], labels[start : start + 500])
        assert len(msgspec.msgpack.encode(streaming.state())) <= 20 * 1_000 + 5 * 2_000 + 200


def test_reading_saving_and_restoring_change_nothing_that_comes_later():
    scores, labels = stream("smooth", 5_000)
    plain, watched = StreamingAUC(bins=100, buffer=300), StreamingAUC(bins=100, buffer=300)
    for start in range(0, len(scores), 130):
        plain.update(scores[start : start + 130], labels[start : start + 130])
        watched.update(scores[start : start + 130], labels[start : start + 130])
        watched.area()
        watched = StreamingAUC(bins=100, buffer=300).restore(watched.state())
    assert msgspec.msgpack.encode(plain.state()) == msgspec.msgpack.encode(watched.state())


def test_auc_of_one_class_or_of_nothing_does_not_exist():
    assert math.isnan(auc(np.ones(3, np.float32), np.ones(3, np.float32)))
    assert math.isnan(auc(np.zeros(0, np.float32), np.zeros(0, np.float32)))
    assert math.isnan(StreamingAUC().area())


def test_damaged_auc_state_is_refused():
    streaming = StreamingAUC()
    streaming.update(np.array([1.0, 2.0], np.float32), np.array([0.0, 1.0], np.float32))
    state = streaming.state()
    with pytest.raises(CorruptError, match="2 waiting scores and 1 labels"):
        StreamingAUC().restore(msgspec.structs.replace(state, waiting_hits=b"\0"))


def test_gauc_is_the_mean_of_users_aucs_weighted_by_impressions():
    rng = np.random.default_rng(2)
    users = rng.integers(-5, 60, 2_000)
    scores = np.round(rng.normal(size=2_000), 1).astype(np.float32)  # with ties
    labels = (rng.random(2_000) < np.where(users % 3 == 0, 0.0, 0.4)).astype(np.float32)  # a third has negatives only
    total, weight = 0.0, 0
    for user in np.unique(users):
        mine = users == user
        if 0 < labels[mine].sum() < mine.sum():
            total += roc_auc_score(labels[mine], scores[mine]) * mine.sum()
            weight += int(mine.sum())
    value, impressions = gauc(users, scores, labels)
    assert 0 < impressions == weight < 2_000
    assert math.isclose(value, total / weight, abs_tol=1e-12)


def test_gauc_does_not_see_the_level_of_a_user():
    users = np.array([1, 1, 2, 2])
    labels = np.array([0, 1, 0, 1], np.float32)
    assert gauc(users, np.array([-9, -8, 4, 5], np.float32), labels) == (1.0, 4)


def test_gauc_without_a_user_of_both_labels_does_not_exist():
    value, impressions = gauc(np.array([1, 2]), np.zeros(2, np.float32), np.array([0, 1], np.float32))
    assert math.isnan(value)
    assert impressions == 0
    assert gauc(np.zeros(0, np.int64), np.zeros(0, np.float32), np.zeros(0, np.float32))[1] == 0
