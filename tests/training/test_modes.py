"""Training and eval mode: what a model says, chance that repeats itself, batch norm's statistics, L2 of vectors."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
import torch
from batches import batch_of
from safetensors.numpy import load

from monolith.config import DenseOptimizerConfig, InputConfig, JobConfig, ModelConfig, TableConfig
from monolith.config.features import FeatureConfig
from monolith.config.optimizers import SGD
from monolith.errors import NonFiniteError
from monolith.tables.batch import Batch
from monolith.training.dense_state import dense_weights
from monolith.training.learner import Learner

BOTH = {"norm": "batch", "dropout": 0.4}


def job_of(optimizer: DenseOptimizerConfig = DenseOptimizerConfig(), seed: int = 0, **model: object) -> JobConfig:  # noqa: B008
    return JobConfig(
        name="t",
        input=InputConfig(samples="memory://samples"),
        tables=[TableConfig(name=n, dim=d, on_nonfinite="skip_row") for n, d in [("user", 4), ("item", 3)]],
        features=[FeatureConfig(name="age", type="float")],
        model=ModelConfig(**{"kind": "mlp", "hidden": [8, 4], **model}),
        dense_optimizer=optimizer,
        seed=seed,
    )


def batch(job: JobConfig, number: int, n: int = 32) -> Batch:
    rng = np.random.default_rng(number)
    samples = [
        {"user": int(u), "item": int(u) % 5, "age": float(a)}
        for u, a in zip(rng.integers(0, 9, n), rng.random(n), strict=True)
    ]
    return batch_of(job, samples, rng.integers(0, 2, n))


def bits(learner: Learner) -> list[bytes]:
    rows = [np.asarray(table.lookup(np.arange(9))).tobytes() for table in learner.tables.values()]
    return [learner.dense_state(), *rows]


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("model", [BOTH, {"dropout": 0.4}, {"norm": "batch", "kind": "dcnv2"}])
def test_a_learner_restored_anywhere_ends_in_the_same_bits(tmp_path, model, optimizer):
    job = job_of(DenseOptimizerConfig(kind=optimizer), **model)
    whole = Learner(job)
    scores = [whole.step(batch(job, step)) for step in range(6)]
    cut = Learner(job)
    for step in range(3):
        cut.step(batch(job, step))
    cut.save(tmp_path / "kept")
    torch.manual_seed(99)  # as another process has it
    torch.rand(7)
    again = Learner(job)
    again.load(tmp_path / "kept")
    for step in range(3, 6):
        assert np.array_equal(again.step(batch(job, step)), scores[step])
    assert bits(again) == bits(whole)


def test_training_leaves_torchs_generator_alone():
    job = job_of(**BOTH)
    learner = Learner(job)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    learner.step(batch(job, 0))
    assert torch.equal(torch.rand(3), expected)


def masks(seed: int, steps: int) -> list[torch.Tensor]:
    """Which outputs of the layer each training step drops: those of which nothing comes to the last layer's weights."""
    job = job_of(DenseOptimizerConfig(kind="sgd", lr=1e-12), seed=seed, dropout=0.5, hidden=[64], activation="sigmoid")
    learner = Learner(job)
    seen = []
    for _ in range(steps):
        learner.step(batch(job, 0, n=1))
        seen.append(learner.model.mlp[2].weight.grad[0] == 0)
    return seen


def test_each_step_and_each_seed_drops_other_outputs_and_a_step_again_the_same():
    first, second = masks(seed=0, steps=2)
    assert 10 < int(first.sum()) < 54
    assert not torch.equal(first, second)
    assert torch.equal(masks(seed=0, steps=2)[1], second)
    assert not torch.equal(masks(seed=1, steps=1)[0], first)


def test_a_step_returns_what_score_would_have_said():
    """Of ids that have rows: without dropout, and by the running statistics from before the step."""
    job = job_of(**BOTH)
    learner = Learner(job)
    for step in range(5):
        learner.step(batch(job, step))
    said = learner.score(batch(job, 5))
    assert np.array_equal(learner.score(batch(job, 5)), said)
    assert np.array_equal(learner.step(batch(job, 5)), said)
    assert not np.array_equal(learner.score(batch(job, 5)), said)


def test_a_published_version_holds_the_statistics_and_answers_what_score_says(tmp_path):
    job = job_of(**BOTH)
    learner = Learner(job)
    learner.export(tmp_path)
    for step in range(5):
        learner.step(batch(job, step))
    learner.cut()
    times = np.zeros(0, np.int64)
    delta = learner.delta(0, sequence=1, step=5, watermark_ms=0, ingested_ms=times)  # checks the graph on the way
    said = learner.score(batch(job, 5))
    inputs = {name: tensor.detach().numpy() for name, tensor in learner._inputs.items()}
    weights = load(delta.dense)
    assert weights["mlp.1.0.running_mean"].any()
    logits = learner.graph.logits(inputs, weights)
    np.testing.assert_allclose(1 / (1 + np.exp(-logits)), said, rtol=1e-5)
    assert dense_weights(learner.model) == delta.dense


def test_a_batch_of_one_trains_with_batch_norm_and_moves_no_statistic():
    job = job_of(**BOTH)
    learner = Learner(job)
    learner.step(batch(job, 0))
    norm = learner.model.mlp[1][0]
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    weight = learner.model.mlp[0].weight.clone()
    assert np.isfinite(learner.step(batch(job, 1, n=1))).all()
    assert not torch.equal(learner.model.mlp[0].weight, weight)
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        assert torch.equal(norm.state_dict()[name], before[name])
    learner.step(batch(job, 2, n=2))
    assert not torch.equal(norm.running_mean, before["running_mean"])


@pytest.mark.parametrize("bad", [np.nan, np.float32(3e38)])
def test_a_skipped_step_leaves_no_trace_in_the_running_statistics(bad):
    job = job_of(DenseOptimizerConfig(on_nonfinite="skip_step"), norm="batch")
    learner = Learner(job)
    learner.step(batch(job, 0))
    before = dense_weights(learner.model)
    poisoned = batch(job, 1)
    poisoned.dense["age"][3] = bad
    learner.step(poisoned)
    assert dense_weights(learner.model) == before
    learner.step(batch(job, 2))
    assert dense_weights(learner.model) != before


def test_a_statistic_that_overflows_stops_a_job_that_does_not_skip():
    job = job_of(norm="batch")
    learner = Learner(job)
    poisoned = batch(job, 1)
    poisoned.dense["age"][3] = np.float32(3e38)
    with pytest.raises(NonFiniteError, match="holds NaN"):
        learner.step(poisoned)


def test_models_without_modes_keep_their_state_as_it_was():
    """Neither dropout nor norm: no count of steps is kept, so that earlier builds' bytes are this one's."""
    job = job_of()
    learner = Learner(job)
    learner.step(batch(job, 0))
    assert b'"steps"' not in learner.dense_state()
    assert not learner.modes.differ


# --- L2 of the vectors that are read ----------------------------------------------------------------------------------


def weights_after_a_step(l2: float, users: list[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of users 0 and 1 before and after one SGD step (lr 1) of LR, and the loss's own gradients."""
    job = msgspec.structs.replace(
        job_of(kind="lr", hidden=[1], embedding_l2=l2),
        tables=[TableConfig(name="user", dim=1, optimizer=SGD(lr=1.0))],
    )
    learner = Learner(job)
    learner.tables["user"].observe(np.array([0, 1]))
    before = np.array(learner.tables["user"].lookup(np.array([0, 1])))[:, 0]
    labels = [1.0] * len(users)
    said = learner.step(batch_of(job, [{"user": u, "age": 0.0} for u in users], labels))
    errors = (said - 1.0) / len(users)
    own = np.array([errors[np.array(users) == user].sum() for user in (0, 1)])
    return before, np.array(learner.tables["user"].lookup(np.array([0, 1])))[:, 0], own


def test_l2_adds_the_vector_once_for_each_sample_that_reads_it():
    """Half of 0.3 times the square, a mean over 4 samples: a row that 3 of them read gets 0.3 * row * 3 / 4."""
    before, after, own = weights_after_a_step(0.3, [0, 0, 0, 1])
    np.testing.assert_allclose(before - after, own + 0.3 * before * np.array([3, 1]) / 4, rtol=1e-5, atol=1e-8)
    before, plain, own = weights_after_a_step(0.0, [0, 0, 0, 1])
    np.testing.assert_allclose(before - plain, own, rtol=1e-5, atol=1e-8)


def test_l2_is_torchs_gradient_of_the_loss_with_the_squares_added():
    job = job_of(kind="dcnv2", embedding_l2=0.7)
    tables = [msgspec.structs.replace(table, optimizer=SGD(lr=1.0)) for table in job.tables]
    job = msgspec.structs.replace(job, tables=tables)
    learner = Learner(job)
    one = batch(job, 0)
    learner.score(one)  # builds nothing; rows come with the first step
    for name, table in learner.tables.items():
        table.observe(one.bags[name].ids)
    before = {name: np.array(table.lookup(np.arange(9))) for name, table in learner.tables.items()}
    plain = {name: torch.tensor(rows, requires_grad=True) for name, rows in before.items()}
    vectors = {name: rows[torch.tensor(one.bags[name].ids)] for name, rows in plain.items()}
    logits = learner.model({**vectors, "age": torch.tensor(one.dense["age"])})
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, torch.tensor(one.labels[:, 0]))
    (loss + 0.7 / 2 * sum(v.square().sum() for v in vectors.values()) / len(one)).backward()
    learner.step(one)
    for name, table in learner.tables.items():
        step = before[name] - np.array(table.lookup(np.arange(9)))
        np.testing.assert_allclose(step, plain[name].grad.numpy(), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("model", [BOTH, {"dropout": 0.4}, {}])
def test_learning_without_predictions_ends_in_the_same_bits(model):
    told, silent = Learner(job_of(**model)), Learner(job_of(**model))
    for number in range(3):
        told.step(batch(told.job, number))
        silent.learn(batch(silent.job, number))
    assert bits(silent) == bits(told)
