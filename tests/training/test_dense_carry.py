"""Weights of a class of the user's own, which says nothing of its columns, go over where no column can be mistaken."""

from __future__ import annotations

import pytest
import torch

from monolith.config import DenseOptimizerConfig, ModelConfig
from monolith.training.dense_carry import carry_dense
from monolith.training.dense_optimizer import DenseOptimizer
from monolith.training.dense_state import read_dense_state, save_dense_state
from monolith.training.models.columns import Network
from monolith.training.modes import Modes

OWN = ModelConfig(kind="shop.nets:Tower")
TASKS = (("label (log)", 1),)


def tower(width: int) -> tuple[torch.nn.Module, DenseOptimizer, Modes]:
    model = torch.nn.Sequential(torch.nn.Linear(width, 5), torch.nn.Linear(5, 1))
    return model, DenseOptimizer(DenseOptimizerConfig(kind="adagrad"), model), Modes(model, 0)


def outcomes(vectors: tuple[tuple[str, int], ...], tasks: tuple[tuple[str, int], ...] = TASKS) -> dict[str, str]:
    """What becomes of the weights of a tower over a (1) and b (2) in one over ``vectors``."""
    old = Network(OWN, (("a", 1), ("b", 2)), (), TASKS)
    was = read_dense_state(save_dense_state(*tower(3)))
    found = carry_dense(was, old, Network(OWN, vectors, (), tasks), *tower(sum(width for _, width in vectors)))
    return {one.name: one.outcome for one in found if not one.name.startswith("dense ")}


@pytest.mark.parametrize(
    ("vectors", "first", "others"),
    [
        ((("a", 1), ("b", 2)), "taken", "taken"),
        ((("a", 1), ("b", 2), ("c", 1)), "new", "taken"),  # by shape
        ((("b", 2), ("a", 1)), "new", "new"),  # as wide in all: columns may be others
        ((("a", 1), ("c", 2)), "new", "new"),
    ],
)
def test_weights_go_by_shape_unless_inputs_differ_and_are_as_wide(vectors, first, others):
    assert outcomes(vectors) == {"0.weight": first, "0.bias": others, "1.weight": others, "1.bias": others}


def test_no_weight_goes_over_to_other_tasks():
    assert set(outcomes((("a", 1), ("b", 2)), (("bought (log)", 1),)).values()) == {"new"}
