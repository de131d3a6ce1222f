"""Several tasks: their loss, their outputs, their metrics, and their way to a replica."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
import torch
from batches import batch_of
from msgspec import structs
from sklearn.metrics import log_loss, roc_auc_score

from monolith.card import CardTask
from monolith.config import (
    DenseOptimizerConfig,
    InputConfig,
    JobConfig,
    ModelConfig,
    TableConfig,
    TaskConfig,
    parse_job,
)
from monolith.errors import CorruptError, VersionError
from monolith.serving import Replica
from monolith.serving.publisher import Publisher
from monolith.serving.store import open_store
from monolith.tables.batch import Batch
from monolith.training.learner import Learner
from monolith.training.loss import gradient_of, loss_of, predictions_of, sampled_bce
from monolith.training.metrics import StreamMetrics
from monolith.training.task_metrics import JobMetrics

CLICK, PRICE = TaskConfig(name="click"), TaskConfig(name="price", loss="squared", weight=0.25)
JOB = """
name: shop
input: {samples: "memory://samples"}
tables:
  - {name: user, dim: 5}
  - {name: wide, dim: 1, features: [item]}
  - {name: item, dim: 5}
features: [{name: age, type: float}, {name: image, type: float, width: 2}]
labels: [{name: click}, {name: price, loss: squared, weight: 0.25}]
model: {kind: deepfm, hidden: [8]}
"""
N = 64


def learner_of(kind: str = "deepfm") -> Learner:
    job = parse_job(JOB, "shop.yaml")
    if kind == "dlrm":
        tables = [table for table in job.tables if table.name != "wide"]
        job = msgspec.structs.replace(job, tables=tables, model=ModelConfig(kind="dlrm", hidden=[16], bottom=[8]))
    return Learner(job)


def shop(job: JobConfig, *, seed: int = 0) -> tuple[list[dict], Batch]:
    """Samples whose price is ten times what the user pays on average, half of them with a click and all with a rate."""
    rng = np.random.default_rng(seed)
    users = rng.integers(0, 4, N)
    samples = [
        {"user": int(u), "item": int(i), "age": float(a), "image": [0.5, float(a)]}
        for u, i, a in zip(users, rng.integers(0, 9, N), rng.random(N), strict=True)
    ]
    one = batch_of(job, samples, [0.0] * N, rates=[0.5] * N)
    labels = np.stack([users % 2, 10.0 * users], axis=1).astype(np.float32)
    weights = np.stack([np.ones(N), rng.integers(0, 3, N)], axis=1).astype(np.float32)
    fields = {name: getattr(one, name) for name in Batch.__slots__}
    return samples, Batch(**fields | {"labels": labels, "label_weights": weights})


# --- loss -------------------------------------------------------------------------------------------------------------


def test_the_loss_is_the_sum_over_tasks_of_the_weighted_mean_over_labels():
    _, batch = shop(parse_job(JOB, "shop.yaml"))
    outputs = torch.randn(N, 2, generator=torch.Generator().manual_seed(1))
    z, p = outputs.double().numpy().T
    at, y, (_, w) = z - math.log(0.5), batch.labels[:, 0], batch.label_weights.T
    click = np.mean(np.log1p(np.exp(at)) - y * at)
    price = np.average((p - batch.labels[:, 1]) ** 2, weights=w)
    assert float(loss_of([CLICK, PRICE], outputs, batch)) == pytest.approx(click + 0.25 * price, rel=1e-5)


def test_a_label_without_weight_gives_no_gradient_and_a_task_without_labels_no_loss():
    _, batch = shop(parse_job(JOB, "shop.yaml"))
    outputs = torch.zeros(N, 2, requires_grad=True)
    loss_of([CLICK, PRICE], outputs, batch).backward()
    unlabelled = batch.label_weights[:, 1] == 0
    assert 0 < unlabelled.sum() < N
    np.testing.assert_array_equal(outputs.grad[:, 1].numpy() == 0, unlabelled | (batch.labels[:, 1] == 0))
    fields = {name: getattr(batch, name) for name in Batch.__slots__}
    nothing = Batch(**fields | {"label_weights": np.zeros((N, 2), np.float32)})
    assert loss_of([CLICK, PRICE], outputs, nothing).item() == 0.0


def test_one_binary_task_has_the_bits_of_plain_cross_entropy_whether_weights_are_none_or_1():
    _, batch = shop(parse_job(JOB, "shop.yaml"))
    fields = {name: getattr(batch, name) for name in Batch.__slots__} | {"labels": batch.labels[:, :1].copy()}
    outputs = torch.randn(N, generator=torch.Generator().manual_seed(1))
    expected = sampled_bce(outputs, torch.tensor(batch.labels[:, 0]), torch.tensor(batch.rates))
    for weights in (None, np.ones((N, 1), np.float32)):
        assert loss_of([CLICK], outputs, Batch(**fields | {"label_weights": weights})).equal(expected)


@pytest.mark.parametrize("tasks", [[CLICK], [PRICE], [CLICK, PRICE], [structs.replace(CLICK, weight=0.3)]])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_gradient_of_a_step_is_the_losses(tasks, weighted):
    _, batch = shop(parse_job(JOB, "shop.yaml"))
    fields = {name: getattr(batch, name) for name in Batch.__slots__}
    weights = batch.label_weights[:, : len(tasks)].copy() if weighted else None
    batch = Batch(**fields | {"labels": batch.labels[:, : len(tasks)].copy(), "label_weights": weights})
    shape = (N,) if len(tasks) == 1 else (N, len(tasks))
    outputs = torch.randn(*shape, generator=torch.Generator().manual_seed(1)).requires_grad_()
    loss_of(tasks, outputs, batch).backward()
    torch.testing.assert_close(gradient_of(tasks, outputs.detach(), batch), outputs.grad)


def test_the_gradient_of_one_binary_task_has_the_same_bits_whether_weights_are_none_or_1():
    _, batch = shop(parse_job(JOB, "shop.yaml"))
    fields = {name: getattr(batch, name) for name in Batch.__slots__} | {"labels": batch.labels[:, :1].copy()}
    outputs = torch.randn(N, generator=torch.Generator().manual_seed(1))
    none, ones = (Batch(**fields | {"label_weights": w}) for w in (None, np.ones((N, 1), np.float32)))
    assert gradient_of([CLICK], outputs, none).equal(gradient_of([CLICK], outputs, ones))
    whole = Batch(**fields | {"label_weights": None, "rates": np.ones(N, np.float32)})
    assert not gradient_of([CLICK], outputs, whole).equal(gradient_of([CLICK], outputs, none))


def test_predictions_are_probabilities_of_binary_tasks_and_the_outputs_of_others():
    outputs = torch.tensor([[0.0, 3.0], [2.0, -1.0]])
    expected = torch.tensor([[0.5, 3.0], [torch.sigmoid(outputs)[1, 0], -1.0]])
    assert predictions_of([CLICK, PRICE], outputs).equal(expected)
    assert predictions_of([PRICE], outputs[:, 1]).equal(outputs[:, 1])


# --- metrics ----------------------------------------------------------------------------------------------------------


def test_each_task_has_the_metrics_of_its_loss_over_the_samples_that_it_has_labels_in():
    _, batch = shop(parse_job(JOB, "shop.yaml"))
    rng = np.random.default_rng(3)
    predictions = np.stack([rng.random(N), 40 * rng.random(N)], axis=1).astype(np.float32)
    metrics = JobMetrics([CLICK, PRICE], window=16)
    for start in range(0, N, 10):
        metrics.update(batch[start : start + 10], predictions[start : start + 10])
    report = metrics.report()["tasks"]
    assert metrics.samples == N
    assert report["click"]["total"]["auc"] == pytest.approx(roc_auc_score(batch.labels[:, 0], predictions[:, 0]))
    w = batch.label_weights[:, 1].astype(np.float64)
    error = predictions[:, 1].astype(np.float64) - batch.labels[:, 1]
    price = report["price"]["total"]
    assert price["samples"] == (w > 0).sum()
    assert price["rmse"] == pytest.approx(math.sqrt(np.average(error**2, weights=w)))
    assert price["mae"] == pytest.approx(np.average(np.abs(error), weights=w))
    assert price["mean_label"] == pytest.approx(np.average(batch.labels[:, 1], weights=w))
    has = np.flatnonzero(w)[: 16 * (int((w > 0).sum()) // 16)][-16:]
    window = report["price"]["window"]
    assert window["rmse"] == pytest.approx(math.sqrt(np.average(error[has] ** 2, weights=w[has])))


def test_weights_count_in_the_log_loss_and_a_label_without_weight_counts_nowhere():
    job = JobConfig(name="t", input=InputConfig(), tables=[TableConfig(name="user", dim=2)])
    one = batch_of(job, [{"user": 1}] * 4, [1.0, 0.0, 1.0, 0.0])
    fields = {name: getattr(one, name) for name in Batch.__slots__}
    weights = np.array([[2], [1], [0.5], [0]], np.float32)
    p = np.array([0.9, 0.2, 0.4, 0.99], np.float32)
    (scores,) = StreamMetrics(window=3).update(Batch(**fields | {"label_weights": weights}), p)
    assert scores.samples == 3
    assert scores.logloss == pytest.approx(log_loss([1, 0, 1], p[:3].astype(float), sample_weight=[2, 1, 0.5]))
    assert scores.auc == 1.0


def test_restored_metrics_of_tasks_go_on_to_the_same_bytes():
    _, batch = shop(parse_job(JOB, "shop.yaml"))
    predictions = np.full((N, 2), 0.25, np.float32)
    plain, restored = JobMetrics([CLICK, PRICE], 50), JobMetrics([CLICK, PRICE], 50)
    plain.update(batch, predictions)
    restored.restore(plain.state())
    for metrics in (plain, restored):
        metrics.update(batch, predictions)
    assert plain.state() == restored.state()
    assert msgspec.json.encode(plain.report()) == msgspec.json.encode(restored.report())  # NaN is not itself


def test_the_metrics_state_of_a_build_with_one_task_is_read():
    job = JobConfig(name="t", input=InputConfig(), tables=[TableConfig(name="user", dim=2)])
    batch, p = batch_of(job, [{"user": 1}] * 4, [1.0, 0.0, 1.0, 0.0]), np.full(4, 0.25, np.float32)
    one, ours = StreamMetrics(window=3), JobMetrics([CLICK], window=3)
    one.update(batch, p)
    older = msgspec.msgpack.decode(one.state()) | {"version": 1}
    del older["weights"]
    ours.restore(msgspec.msgpack.encode(older))
    one.update(batch, p)
    ours.update(batch, p)
    assert ours.samples == 8
    assert ours.report() == one.report()


def test_metrics_state_that_is_damaged_or_of_other_tasks_changes_nothing():
    _, batch = shop(parse_job(JOB, "shop.yaml"))
    metrics = JobMetrics([CLICK, PRICE], 50)
    metrics.update(batch, np.full((N, 2), 0.25, np.float32))
    state = metrics.state()
    fields = msgspec.msgpack.decode(state)
    (click, of_click), (price, _) = fields["tasks"]
    for tasks in ([[price, of_click]], [[click, of_click], [price, b"\x80"]]):
        with pytest.raises(CorruptError):
            metrics.restore(msgspec.msgpack.encode(fields | {"tasks": tasks}))
    with pytest.raises(CorruptError):
        metrics.restore(state[:-3])
    with pytest.raises(VersionError, match="99"):
        metrics.restore(msgspec.msgpack.encode(fields | {"version": 99}))
    assert metrics.state() == state


# --- from the learner to a replica ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["deepfm", "dlrm"])
def test_a_replica_predicts_each_task_as_the_trainer_scores_it(kind, tmp_path):
    learner = learner_of(kind)
    samples, batch = shop(learner.job)
    for _ in range(20):
        assert learner.step(batch).shape == (N, 2)
    publisher = Publisher(open_store(f"lmdb://{tmp_path}/store", "shop"))
    publisher.start(learner.card("run"), learner.export(tmp_path))
    sequence = learner.cut()
    moments = {"step": 5, "watermark_ms": 0, "ingested_ms": np.zeros(0, np.int64), "digest": ""}
    publisher.publish(sequence, lambda since: learner.delta(since, sequence=sequence, **moments))
    publisher.close()
    expected = learner.score(batch)
    replica = Replica.open(f"lmdb://{tmp_path}/store", model="shop")
    try:
        assert replica.card().tasks == [CardTask(name="click"), CardTask(name="price", loss="squared")]
        served = replica.predict(samples)
        assert list(served.values) == ["click", "price"]
        assert len(served) == N
        np.testing.assert_allclose(served.values["click"], expected[:, 0], rtol=1e-5)
        np.testing.assert_allclose(served.values["price"], expected[:, 1], rtol=1e-4, atol=1e-4)
    finally:
        replica.close()


@pytest.mark.parametrize("kind", ["deepfm", "dlrm"])
def test_both_tasks_are_learnt(kind):
    learner = Learner(structs.replace(learner_of(kind).job, dense_optimizer=DenseOptimizerConfig(lr=0.01)))
    _, batch = shop(learner.job)
    first = JobMetrics(learner.job.labels, N)
    first.update(batch, learner.score(batch))
    for _ in range(400):
        learner.step(batch)
    last = JobMetrics(learner.job.labels, N)
    last.update(batch, learner.score(batch))
    before, after = first.report()["tasks"], last.report()["tasks"]
    assert after["click"]["total"]["auc"] > 0.9
    assert after["price"]["total"]["rmse"] < 0.3 * before["price"]["total"]["rmse"]


def test_a_restored_learner_of_two_tasks_goes_on_to_the_same_bits(tmp_path):
    learner, other = learner_of(), learner_of()
    _, batch = shop(learner.job)
    learner.step(batch)
    learner.save(tmp_path / "kept")
    other.load(tmp_path / "kept")
    for one in (learner, other):
        one.step(batch)
    assert learner.step(batch).tobytes() == other.step(batch).tobytes()
    assert learner.dense_state() == other.dense_state()
