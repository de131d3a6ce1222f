"""LR, FM and DeepFM against their formulas."""

from __future__ import annotations

import itertools

import pytest
import torch

from monolith.config import ModelConfig
from monolith.errors import ConfigError
from monolith.training.inputs import Inputs
from monolith.training.models import DeepFM, build_model
from monolith.training.models.fm import Interaction

NAMES = ["user", "movie", "tags"]


def vectors(dim: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {name: torch.randn(5, dim, generator=generator) for name in NAMES}


def model(kind: str, dim: int, seed: int = 0) -> torch.nn.Module:
    built = build_model(ModelConfig(kind=kind, hidden=[8, 4]), dict.fromkeys(NAMES, dim), {}, seed)
    torch.nn.init.constant_(built.bias, 0.25)
    return built


def pairwise(inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Sum of all pairs' inner products, one pair after the other."""
    return sum((inputs[a][:, 1:] * inputs[b][:, 1:]).sum(1) for a, b in itertools.combinations(NAMES, 2))


def linear(inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    return 0.25 + sum(vector[:, 0] for vector in inputs.values())


def test_lr_is_the_bias_and_the_sum_of_weights():
    torch.testing.assert_close(model("lr", 1)(vectors(1)), linear(vectors(1)))


def test_fm_is_lr_and_all_pairs():
    inputs = vectors(5)
    torch.testing.assert_close(model("fm", 5)(inputs), linear(inputs) + pairwise(inputs))


def test_deepfm_is_fm_and_an_mlp_on_the_factors():
    inputs = vectors(5)
    deepfm = model("deepfm", 5)
    assert isinstance(deepfm, DeepFM)
    deep = deepfm.mlp(torch.cat([inputs[name][:, 1:] for name in NAMES], dim=1)).squeeze(1)
    assert deep.any()
    torch.testing.assert_close(deepfm(inputs), linear(inputs) + pairwise(inputs) + deep)


@pytest.mark.parametrize(("kind", "dim"), [("lr", 1), ("fm", 5), ("deepfm", 5)])
def test_vectors_side_by_side_give_the_bits_of_vectors_by_name(kind, dim):
    built = model(kind, dim)
    matrix = torch.cat([vectors(dim)[name] for name in NAMES], dim=1).requires_grad_()
    by_name = {name: vector.requires_grad_() for name, vector in vectors(dim).items()}
    together, apart = built(Inputs(matrix, dict.fromkeys(NAMES, dim), {})), built(by_name)
    assert torch.equal(together, apart)
    together.square().sum().backward()
    apart.square().sum().backward()
    assert torch.equal(matrix.grad, torch.cat([by_name[name].grad for name in NAMES], dim=1))


def test_interaction_has_the_gradient_that_autograd_finds():
    def by_pairs(vectors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        named = {name: vectors[:, place] for place, name in enumerate(NAMES)}
        return linear(named) - 0.25, pairwise(named), vectors[:, :, 1:]

    generator = torch.Generator().manual_seed(2)
    weights = [torch.randn(*shape, generator=generator) for shape in [(5,), (5,), (5, 3, 4)]]
    for used in itertools.product([0.0, 1.0], repeat=3):
        grads = []
        for form in (Interaction.of, by_pairs):
            inputs = torch.stack(list(vectors(5).values()), dim=1).requires_grad_()
            parts = zip(form(inputs), weights, used, strict=True)
            sum((part * weight).sum() for part, weight, use in parts if use or not any(used)).backward()
            grads.append(inputs.grad)
        torch.testing.assert_close(*grads)


def test_inputs_are_a_mapping_of_vectors_and_dense_features():
    matrix = torch.arange(12.0).view(2, 6).requires_grad_()
    inputs = Inputs(matrix, {"a": 1, "b": 3, "c": 2}, {"price": torch.ones(2, 1)})
    assert list(inputs) == ["a", "b", "c", "price"]
    assert len(inputs) == 4
    assert torch.equal(inputs["b"], matrix[:, 1:4])
    assert torch.equal(inputs["price"], torch.ones(2, 1))
    (inputs["a"].sum() + 2 * inputs["c"].sum()).backward()
    assert torch.equal(matrix.grad, torch.tensor([[1.0, 0, 0, 0, 2, 2]] * 2))
    with pytest.raises(KeyError):
        inputs["d"]


@pytest.mark.parametrize("kind", ["fm", "deepfm"])
def test_empty_batch_gives_no_logits(kind):
    assert model(kind, 5)({name: torch.zeros(0, 5) for name in NAMES}).shape == (0,)


def test_initial_weights_depend_on_the_seed_alone():
    torch.manual_seed(1)
    first = model("deepfm", 5, seed=7).state_dict()
    torch.manual_seed(2)
    second = model("deepfm", 5, seed=7).state_dict()
    other = model("deepfm", 5, seed=8).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["mlp.0.weight"], other["mlp.0.weight"])


def test_building_leaves_the_global_generator_as_it_was():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    model("deepfm", 5)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("kind", "dims"), [("lr", [1, 1, 2]), ("fm", [1, 1, 1]), ("fm", [5, 5, 6]), ("deepfm", [1, 1, 1])]
)
def test_dims_that_do_not_suit_the_model_are_refused(kind, dims):
    with pytest.raises(ConfigError, match=f"model {kind} needs"):
        build_model(ModelConfig(kind=kind), dict(zip(NAMES, dims, strict=True)), {})
