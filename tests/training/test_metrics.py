"""Windowed and running metrics, their correction for sampling, and their exact continuation."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import numpy as np
import pytest
from batches import batch_of
from sklearn.metrics import log_loss, roc_auc_score

from monolith.config import FeatureConfig, InputConfig, JobConfig, TableConfig
from monolith.errors import CorruptError, InputError, VersionError
from monolith.tables.batch import Batch, concatenated
from monolith.training.metrics import StreamMetrics
from monolith.training.ranking import gauc

JOB = JobConfig(name="t", input=InputConfig(), tables=[TableConfig(name="user", dim=2)])
STRINGS = msgspec.structs.replace(JOB, features=[FeatureConfig(name="user", type="string")])


def samples_of(users: Sequence[object], labels: Sequence[float], rates: Sequence[float] | None = None) -> Batch:
    job = STRINGS if any(isinstance(user, str) for user in users) else JOB
    return batch_of(job, [{"user": user} for user in users], labels, rates=rates)


def batches(n: int, size: int, seed: int = 1) -> list[tuple[Batch, np.ndarray]]:
    """A stream of ``n`` samples of 40 users, whose probabilities are informative."""
    rng = np.random.default_rng(seed)
    p = rng.beta(1, 4, n).astype(np.float32)
    whole = samples_of(rng.integers(0, 40, n).tolist(), rng.random(n) < p)
    return [(whole[at : at + size], p[at : at + size]) for at in range(0, n, size)]


def columns(stream: list[tuple[Batch, np.ndarray]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Users, probabilities, labels."""
    whole = concatenated([part for part, _ in stream])
    return whole.groups, np.concatenate([p for _, p in stream]), whole.labels[:, 0]


def test_windows_close_at_exact_sample_counts_and_are_exact():
    stream = batches(2_500, size=300)
    metrics = StreamMetrics(window=1_000)
    closed = [scores for part, p in stream for scores in metrics.update(part, p)]
    users, p, labels = columns(stream)
    assert [scores.samples for scores in closed] == [1_000, 1_000]
    for number, scores in enumerate(closed):
        window = slice(number * 1_000, (number + 1) * 1_000)
        assert math.isclose(scores.auc, roc_auc_score(labels[window], p[window]), abs_tol=1e-12)
        assert math.isclose(scores.logloss, log_loss(labels[window], p[window].astype(float)), rel_tol=1e-9)
        assert scores.gauc == gauc(users[window], p[window], labels[window])[0]


def test_a_batch_larger_than_the_window_closes_several():
    (part, p), *_ = batches(1_000, size=1_000)
    assert [scores.samples for scores in StreamMetrics(window=300).update(part, p)] == [300, 300, 300]


def test_total_is_over_everything_with_the_open_window():
    stream = batches(2_500, size=300)
    metrics = StreamMetrics(window=1_000)
    for part, p in stream:
        metrics.update(part, p)
    users, p, labels = columns(stream)
    total = metrics.total
    assert total.samples == 2_500
    assert math.isclose(total.auc, roc_auc_score(labels, p), abs_tol=1e-12)
    assert math.isclose(total.logloss, log_loss(labels, p.astype(float)), rel_tol=1e-9)
    assert math.isclose(total.calibration, p.astype(float).sum() / labels.sum(), rel_tol=1e-9)
    rate = labels.mean(dtype=float)
    entropy = -(rate * math.log(rate) + (1 - rate) * math.log(1 - rate))
    assert math.isclose(total.normalised_entropy, total.logloss / entropy, rel_tol=1e-9)
    parts = [gauc(users[at : at + 1_000], p[at : at + 1_000], labels[at : at + 1_000]) for at in (0, 1_000, 2_000)]
    assert math.isclose(total.gauc, sum(v * n for v, n in parts) / sum(n for _, n in parts), rel_tol=1e-12)


def test_thinned_negatives_count_for_those_that_were_dropped():
    full, thinned = StreamMetrics(window=10_000), StreamMetrics(window=10_000)
    for metrics, negatives, rate in ((full, 100, 1.0), (thinned, 10, 0.1)):
        n = 5 + negatives
        samples = samples_of([1] * n, [1.0] * 5 + [0.0] * negatives, [0.1] * 5 + [rate] * negatives)
        metrics.update(samples, np.full(n, 0.05, np.float32))
    for name in ("logloss", "normalised_entropy", "calibration"):
        assert math.isclose(getattr(full.total, name), getattr(thinned.total, name), rel_tol=1e-6)
    assert thinned.total.samples == 15


def test_a_sure_and_wrong_probability_costs_a_finite_loss():
    metrics = StreamMetrics(window=2)
    (scores,) = metrics.update(samples_of([1, 1], [0.0, 1.0]), np.array([1.0, 0.0], np.float32))
    assert math.isclose(scores.logloss, 25 * math.log(2))


def test_users_may_be_strings_and_samples_without_a_user_have_no_part_in_gauc():
    metrics = StreamMetrics(window=6)
    users = ["ann", "ann", "bob", "bob", None, None]
    labels = [0.0, 1.0, 0.0, 1.0, 1.0, 0.0]
    p = np.array([0.1, 0.2, 0.8, 0.9, 0.3, 0.4], np.float32)
    (scores,) = metrics.update(samples_of(users, labels), p)
    assert scores.gauc == 1.0


def test_metrics_of_nothing_or_of_one_class_are_nan_and_reported():
    metrics = StreamMetrics(window=2)
    assert math.isnan(metrics.total.auc)
    assert math.isnan(metrics.total.logloss)
    assert metrics.report()["window"] is None
    metrics.update(samples_of([1, 2], [0.0, 0.0]), np.array([0.5, 0.5], np.float32))
    report = metrics.report()
    assert math.isnan(report["window"]["auc"])
    assert math.isnan(report["window"]["calibration"])
    assert math.isclose(report["total"]["logloss"], math.log(2))
    msgspec.json.encode(report)


def test_restored_metrics_go_on_to_the_same_bytes():
    plain, restored = StreamMetrics(window=700), StreamMetrics(window=700)
    for part, p in batches(40_000, size=256):
        left, right = plain.update(part, p), restored.update(part, p)
        assert left == right
        if len(part) == 256 and restored.total.samples % 8192 == 0:
            state = restored.state()
            restored = StreamMetrics(window=700)
            restored.restore(state)
            assert restored.state() == state
    assert plain.state() == restored.state()
    assert plain.report() == restored.report()


def test_a_shorter_window_after_a_restart_closes_at_once():
    metrics, shorter = StreamMetrics(window=1_000), StreamMetrics(window=100)
    (part, p), (more, q) = batches(600, size=300)
    metrics.update(part, p)
    shorter.restore(metrics.state())
    assert [scores.samples for scores in shorter.update(more, q)] == [300, 100, 100, 100]


def test_damaged_state_is_refused_and_changes_nothing():
    metrics = StreamMetrics(window=1_000)
    (part, p), *_ = batches(300, size=300)
    metrics.update(part, p)
    state = metrics.state()
    fields = msgspec.msgpack.decode(state)
    for damage, message in [
        (state[:-3], "cannot be read"),
        (msgspec.msgpack.encode(fields | {"users": b""}), "different length"),
        (msgspec.msgpack.encode(fields | {"labels": b"123"}), "3 bytes of labels"),
    ]:
        with pytest.raises(CorruptError, match=message):
            metrics.restore(damage)
    with pytest.raises(VersionError, match="99"):
        metrics.restore(msgspec.msgpack.encode(fields | {"version": 99}))
    assert metrics.state() == state


def test_bad_arguments_are_refused():
    with pytest.raises(InputError, match="window_samples"):
        StreamMetrics(window=0)
    with pytest.raises(InputError, match="1 samples have 2"):
        StreamMetrics(window=5).update(samples_of([1], [1.0]), np.zeros(2, np.float32))
