"""MLP, DCN-V2 and Wide & Deep against their formulas, with every kind of layer, and as graphs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.numpy import load
from torchrec.modules.crossnet import CrossNet, LowRankCrossNet

from monolith.config import ModelConfig
from monolith.config.model_rules import MODEL_KINDS, MODEL_SETTINGS
from monolith.errors import ConfigError
from monolith.training.export import DenseGraph, dense_weights, export_graph
from monolith.training.inputs import Inputs
from monolith.training.models import build_model
from monolith.training.models.layers import ACTIVATIONS

VECTORS = {"user": 4, "item": 3, "weight": 1, "bias_of_item": 1}
DENSE = {"age": 1, "image": 2}
BATCH = 6


def inputs_of(batch: int = BATCH, vectors: dict[str, int] = VECTORS) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    return {name: torch.randn(batch, width, generator=generator) for name, width in {**vectors, **DENSE}.items()}


def built(kind: str, tasks: int = 1, vectors: dict[str, int] = VECTORS, **settings: object) -> torch.nn.Module:
    return build_model(ModelConfig(kind=kind, **{"hidden": [8, 5], **settings}), vectors, DENSE, 3, tasks)


def vectors_for(kind: str) -> dict[str, int]:
    """Widths that the kind takes: as different as may be."""
    same = dict.fromkeys(("user", "item"), 4)
    return {"deepfm": same | {"weight": 1}, "dlrm": same}.get(kind, VECTORS)


def everything() -> torch.Tensor:
    return torch.cat(list(inputs_of().values()), dim=1)


@pytest.mark.parametrize("tasks", [1, 3])
def test_mlp_is_linear_layers_and_activations_over_everything(tasks):
    model = built("mlp", tasks, activation="tanh")
    first, second, last = (model.mlp[place] for place in (0, 2, 4))
    expected = last(torch.tanh(second(torch.tanh(first(everything())))))
    torch.testing.assert_close(model(inputs_of()).reshape(BATCH, tasks), expected)
    assert model(inputs_of()).shape == ((BATCH,) if tasks == 1 else (BATCH, tasks))


@pytest.mark.parametrize("tasks", [1, 3])
def test_widedeep_is_the_sum_of_weights_and_an_mlp_on_the_vectors(tasks):
    model, inputs = built("widedeep", tasks), inputs_of()
    torch.nn.init.uniform_(model.bias)
    factors = torch.ones(tasks)
    if tasks > 1:
        factors = torch.nn.init.uniform_(model.wide)
    numbers = torch.cat([inputs["age"], inputs["image"]], dim=1)
    wide = (inputs["weight"] + inputs["bias_of_item"]) * factors + model.dense.linear(numbers)
    deep = model.mlp(torch.cat([inputs["user"], inputs["item"], numbers], dim=1))
    torch.testing.assert_close(model(inputs).reshape(BATCH, tasks), model.bias + wide + deep)


@pytest.mark.parametrize("tasks", [1, 3])
def test_dcnv2_joins_torchrecs_cross_network_and_an_mlp(tasks):
    model, width = built("dcnv2", tasks, cross_layers=2), everything().shape[1]
    cross = CrossNet(width, 2)
    for number, layer in enumerate(model.cross):
        cross.kernels[number].data.copy_(layer.weight)
        cross.bias[number].data.copy_(layer.bias[:, None])
    expected = model.last(torch.cat([cross(everything()), model.mlp(everything())], dim=1))
    torch.testing.assert_close(model(inputs_of()).reshape(BATCH, tasks), expected)


def test_dcnv2_of_low_rank_is_torchrecs():
    model, width = built("dcnv2", cross_rank=3), everything().shape[1]
    cross = LowRankCrossNet(width, 3, low_rank=3)
    for number, layer in enumerate(model.cross):
        cross.V_kernels[number].data.copy_(layer[0].weight)
        cross.W_kernels[number].data.copy_(layer[1].weight)
        cross.bias[number].data.copy_(layer[1].bias)
    expected = model.last(torch.cat([cross(everything()), model.mlp(everything())], dim=1)).squeeze(1)
    torch.testing.assert_close(model(inputs_of()), expected)


def test_dcnv2_without_hidden_layers_is_the_cross_network_alone():
    model = built("dcnv2", hidden=[], cross_layers=1)
    crossed = everything() * model.cross[0](everything()) + everything()
    torch.testing.assert_close(model(inputs_of()), model.last(crossed).squeeze(1))


@pytest.mark.parametrize("kind", ["deepfm", "widedeep", "mlp", "dcnv2", "dlrm"])
@pytest.mark.parametrize("norm", ["none", "batch", "layer"])
def test_every_kind_with_every_norm_is_a_graph_for_any_batch_and_any_weights(kind, norm):
    vectors = vectors_for(kind)
    model = built(kind, 2, vectors, norm=norm, dropout=0.3)
    graph = DenseGraph(export_graph(model, {**vectors, **DENSE}))
    with torch.no_grad():
        for value in [*model.parameters(), *model.buffers()]:  # as after training, running statistics too
            value.copy_(torch.rand(value.shape) if value.is_floating_point() else value + 1)
    model.eval()
    for batch in (1, 7):
        assert graph.check(model, inputs_of(batch, vectors)) < 1e-5
    fed = {name: column.numpy() for name, column in inputs_of(4, vectors).items()}
    expected = model(inputs_of(4, vectors)).detach().numpy()
    np.testing.assert_allclose(graph.logits(fed, load(dense_weights(model))), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("activation", list(ACTIVATIONS))
def test_every_activation_is_a_graph(activation):
    model = built("mlp", activation=activation)
    assert DenseGraph(export_graph(model, {**VECTORS, **DENSE})).check(model, inputs_of()) < 1e-5


@pytest.mark.parametrize("kind", ["deepfm", "widedeep", "mlp", "dcnv2", "dlrm"])
def test_vectors_side_by_side_give_the_bits_and_gradients_of_vectors_by_name(kind):
    vectors = vectors_for(kind)
    model, by_name = built(kind, vectors=vectors), inputs_of(vectors=vectors)
    matrix = torch.cat([by_name[name] for name in vectors], dim=1).requires_grad_()
    leaves = {name: by_name[name].requires_grad_() for name in vectors}
    together = model(Inputs(matrix, vectors, {name: by_name[name] for name in DENSE}))
    apart = model(by_name)
    assert torch.equal(together, apart)
    together.sum().backward()
    apart.sum().backward()
    torch.testing.assert_close(matrix.grad, torch.cat([leaf.grad for leaf in leaves.values()], dim=1))


def test_dropout_changes_no_weights_name_so_that_it_may_be_changed_later():
    for kind in ("deepfm", "widedeep", "mlp", "dcnv2", "dlrm"):
        for norm in ("none", "batch"):
            with_and_without = [built(kind, vectors=vectors_for(kind), norm=norm, dropout=p) for p in (0.0, 0.5)]
            plain, dropping = (list(model.state_dict()) for model in with_and_without)
            assert plain == dropping


def test_an_empty_batch_gives_no_logits():
    for kind in ("widedeep", "mlp", "dcnv2"):
        assert built(kind)(inputs_of(0)).shape == (0,)


@pytest.mark.parametrize("dims", [[4, 3], [1, 1]])
def test_widedeep_needs_a_wide_and_a_deep_table(dims):
    with pytest.raises(ConfigError, match="tables of dim 1 for its wide part and others for its deep part"):
        built("widedeep", vectors=dict(zip(["a", "b"], dims, strict=True)))


@pytest.mark.parametrize("kind", MODEL_KINDS)
def test_a_setting_that_the_kind_does_not_read_is_refused(kind):
    other = {
        "bottom": [9], "cross_layers": 7, "cross_rank": 2, "activation": "tanh", "norm": "layer", "dropout": 0.5,
        "options": {"a": 1},
    }  # fmt: skip
    for key, value in other.items():
        config = ModelConfig(kind=kind, **{key: value})
        if key in MODEL_SETTINGS[kind]:
            continue
        with pytest.raises(ConfigError, match=rf"^model\.{key}: the model {kind} does not read it; leave it out, or"):
            build_model(config, vectors_for(kind), DENSE)
