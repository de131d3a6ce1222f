"""Gradients that the dense optimizer would not survive are met before it, by the policy."""

from __future__ import annotations

import math

import pytest
import torch
from batches import batch_of
from torch import nn

from monolith.config import DenseOptimizerConfig, InputConfig, JobConfig, ModelConfig, TableConfig
from monolith.errors import NonFiniteError
from monolith.tables.batch import Batch
from monolith.training.dense_guard import LARGEST, unfit_gradient
from monolith.training.dense_optimizer import DenseOptimizer
from monolith.training.learner import Learner


def model_with(value: float) -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    model[1].weight.grad[0, 1] = value
    return model


@pytest.mark.parametrize("value", [0.0, 1.0, -LARGEST, LARGEST])
def test_gradients_up_to_the_largest_are_fit(value):
    assert unfit_gradient(model_with(value)) is None


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (math.nan, "NaN"),
        (math.inf, "a size of inf"),
        (-math.inf, "a size of inf"),
        (2 * LARGEST, "a size of 2.2518e+15"),
    ],
)
def test_others_are_named_by_their_weight(value, says):
    assert unfit_gradient(model_with(value)) == f"the gradient of dense weight '1.weight' holds {says}"


def test_weight_without_a_gradient_is_fit():
    assert unfit_gradient(nn.Linear(2, 1)) is None


@pytest.mark.parametrize("kind", ["sgd", "adagrad", "adam"])
def test_largest_gradient_leaves_a_finite_optimizer_that_still_learns(kind):
    model = model_with(LARGEST)
    optimizer = DenseOptimizer(DenseOptimizerConfig(kind=kind), model)
    for _ in range(100):
        optimizer.step()
    state = [value for of_weight in optimizer.weight_states().values() for value in of_weight.values()]
    assert all(value.isfinite().all() for value in [*model.state_dict().values(), *state])


def exploding(**settings) -> tuple[Learner, Batch]:
    """A learner that has made a step, whose weights then became huge, though finite."""
    learner = Learner(
        JobConfig(
            name="t",
            input=InputConfig(samples="memory://samples"),
            tables=[TableConfig(name="user", dim=4, on_nonfinite="clip")],
            model=ModelConfig(kind="deepfm", hidden=[4, 4]),
            dense_optimizer=DenseOptimizerConfig(**settings),
        )
    )
    samples = batch_of(learner.job, [{"user": i} for i in range(8)], [i % 2 for i in range(8)])
    learner.step(samples)
    with torch.no_grad():
        for weight in learner.model.parameters():
            weight.mul_(1e9)
    return learner, samples


def test_policy_raise_names_the_weight_and_leaves_the_dense_part_as_it_was(caplog):
    learner, samples = exploding()
    before = learner.dense_state()
    with pytest.raises(NonFiniteError, match=r"dense weight '.*' holds .*allowed is up to 1\.1259e\+15.*skip_step"):
        learner.step(samples)
    assert learner.dense_state() == before


def test_policy_skip_step_leaves_the_dense_part_as_it_was_and_says_so(caplog):
    learner, samples = exploding(on_nonfinite="skip_step")
    before = learner.dense_state()
    learner.step(samples)
    assert learner.dense_state() == before
    assert "dense step skipped: the gradient of dense weight" in caplog.text


def test_many_fit_gradients_are_fit_whatever_their_sum():
    model = nn.Linear(100, 100)
    model.weight.grad = torch.full((100, 100), LARGEST)
    assert unfit_gradient(model) is None
