"""Scores of a whole set are exact, whatever batches it came in; deciles and slices are of the right samples."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest
from batches import batch_of
from sklearn.metrics import log_loss, roc_auc_score

from monolith.config import FeatureConfig, InputConfig, JobConfig, TableConfig, TaskConfig
from monolith.training.evaluation import Evaluation

JOB = JobConfig(
    name="j",
    input=InputConfig(samples="memory://s"),
    tables=[TableConfig(name="user", dim=2), TableConfig(name="tags", dim=2)],
    features=[FeatureConfig(name="tags", bag=True)],
)


@pytest.fixture
def scored():
    rng = np.random.default_rng(3)
    samples = [
        {"user": int(rng.integers(5)), "tags": rng.integers(3, size=rng.integers(3)).tolist()} for _ in range(500)
    ]
    return batch_of(JOB, samples, rng.integers(0, 2, 500)), rng.random(500).astype(np.float32)


def evaluated(batch, predictions, sizes=(500,), by=()):
    evaluation, start = Evaluation(JOB.labels, by), 0
    for size in sizes:
        evaluation.add(batch[start : start + size], predictions[start : start + size])
        start += size
    return evaluation


def test_scores_are_those_of_scikit_learn(scored):
    batch, predictions = scored
    scores = evaluated(batch, predictions).scores()["label"]
    assert scores.auc == pytest.approx(roc_auc_score(batch.labels[:, 0], predictions), abs=1e-12)
    assert scores.logloss == pytest.approx(log_loss(batch.labels[:, 0], predictions.astype(np.float64)), abs=1e-7)
    assert scores.calibration == pytest.approx(predictions.mean() / batch.labels.mean(), rel=1e-6)


def test_batches_do_not_matter(scored):
    whole, parts = evaluated(*scored), evaluated(*scored, sizes=(1, 99, 400))
    assert whole.scores() == parts.scores()
    assert whole.bins() == parts.bins()


def test_deciles_are_of_equal_size_and_hold_all_samples(scored):
    batch, predictions = scored
    bins = evaluated(batch, predictions).bins()
    assert [one.samples for one in bins] == [50] * 10
    ordered = np.sort(predictions)
    assert bins[0].predicted == pytest.approx(ordered[:50].mean(), rel=1e-6)
    assert np.mean([one.observed for one in bins]) == pytest.approx(batch.labels.mean())


@pytest.mark.parametrize("feature", ["user", "tags"])
def test_a_slice_has_the_samples_with_the_value(scored, feature):
    batch, predictions = scored
    found = {one.value: one.scores for one in evaluated(batch, predictions, by=[feature]).slices(feature)}
    bag = batch.bags[feature]
    of_sample = np.split(bag.ids, bag.offsets()[1:-1])
    for value, scores in found.items():
        has = np.array([value in ids for ids in of_sample])
        assert scores.samples == has.sum()
        assert scores.auc == pytest.approx(roc_auc_score(batch.labels[has, 0], predictions[has]))
    assert list(found) == sorted(found, key=lambda value: -sum((ids == value).sum() for ids in of_sample))


def test_only_the_commonest_values_are_given(scored):
    assert len(list(evaluated(*scored, by=["user"]).slices("user", most=2))) == 2


def test_labels_that_weigh_nothing_do_not_count(scored):
    batch, predictions = scored
    weights = (np.arange(500) % 2).astype(np.float32).reshape(-1, 1)
    weighted = replace(batch, label_weights=weights)
    assert (
        evaluated(weighted, predictions).scores()
        == evaluated(batch.take(np.arange(1, 500, 2)), predictions[1::2], sizes=(250,)).scores()
    )


def test_a_squared_task_has_errors():
    job = msgspec.structs.replace(JOB, labels=[TaskConfig(name="price", loss="squared")])
    batch = batch_of(job, [{"user": 1, "tags": []}] * 4, [1.0, 2.0, 3.0, 4.0])
    evaluation = Evaluation(job.labels)
    evaluation.add(batch, np.array([1.0, 2.0, 3.0, 6.0], np.float32))
    assert evaluation.scores()["price"].rmse == pytest.approx(1.0)


def test_no_sample_has_no_scores():
    assert Evaluation(JOB.labels).scores() == {}
