"""The dense graph in onnxruntime against torch."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from safetensors.numpy import load

from monolith.config import ModelConfig
from monolith.errors import CorruptError, InputError
from monolith.training.export import DenseGraph, dense_weights, export_graph, load_dense_weights
from monolith.training.models import build_model

DIMS = {"user": 5, "movie": 5, "tags": 5}


def model(seed: int = 0) -> torch.nn.Module:
    return build_model(ModelConfig(kind="deepfm", hidden=[16, 8]), DIMS, {}, seed)


def vectors(batch: int, scale: float = 1.0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(batch)
    return {name: scale * torch.randn(batch, dim, generator=generator) for name, dim in DIMS.items()}


@pytest.fixture(scope="module")
def graph() -> bytes:
    return export_graph(model(), DIMS)


def test_inputs_and_output_are_named_as_documented(graph):
    proto = onnx.load_from_string(graph).graph
    weights = ["w:bias", "w:mlp.0.weight", "w:mlp.0.bias", "w:mlp.2.weight", "w:mlp.2.bias", "w:mlp.4.weight"]
    assert [node.name for node in proto.input] == [*DIMS, *weights]
    assert [node.name for node in proto.output] == ["logit"]
    assert not proto.initializer or max(len(part.raw_data) for part in proto.initializer) <= 16  # no weights inside


@pytest.mark.parametrize("batch", [1, 2, 256])
def test_any_batch_and_any_weights_agree_with_torch(graph, batch):
    trained = model(seed=9)  # not the weights that were exported
    assert DenseGraph(graph).check(trained, vectors(batch, scale=3.0)) <= 1e-5


def test_published_weights_feed_the_graph(graph):
    trained = model(seed=9)
    weights = load(dense_weights(trained))
    inputs = {name: vector.numpy() for name, vector in vectors(7).items()}
    expected = trained(vectors(7)).detach().numpy()
    np.testing.assert_allclose(DenseGraph(graph).logits(inputs, weights), expected, rtol=1e-5, atol=1e-6)


def test_a_graph_of_another_model_fails_the_check(graph):
    class Shifted(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model()

        def forward(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
            return self.inner(inputs) + 1e-3

        def state_dict(self, *args: object, **kwargs: object) -> dict[str, torch.Tensor]:
            return self.inner.state_dict()

    with pytest.raises(CorruptError, match="differ by"):
        DenseGraph(graph).check(Shifted(), vectors(8))


def test_nan_in_the_weights_fails_the_check(graph):
    broken = model()
    torch.nn.init.constant_(broken.bias, torch.nan)
    with pytest.raises(CorruptError, match="NaN"):
        DenseGraph(graph).check(broken, vectors(8))


def test_exporting_again_gives_the_same_bytes_without_paths_and_files(graph, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trained = model(seed=9).train()
    again = export_graph(trained, DIMS)
    assert again == graph
    assert os.sep.encode() + b"monolith" not in graph
    assert b".py" not in graph
    assert list(Path(tmp_path).iterdir()) == []
    assert trained.training


def test_fm_and_lr_can_be_exported():
    for kind, dim in [("fm", 5), ("lr", 1)]:
        dims = dict.fromkeys(DIMS, dim)
        small = build_model(ModelConfig(kind=kind), dims, {})
        inputs = {name: vector[:, :dim] for name, vector in vectors(6).items()}
        assert DenseGraph(export_graph(small, dims)).check(small, inputs) <= 1e-5


@pytest.mark.parametrize(("kind", "dim"), [("lr", 1), ("fm", 5), ("deepfm", 5)])
def test_features_may_be_named_like_operators_and_inner_values(kind, dim):
    names = ["cat", "sum_1", "linear", "relu", "val_2", "node_cat", "inputs_0", "batch", "logits", "bias", "/cat"]
    dims = dict.fromkeys(names, dim)
    named = build_model(ModelConfig(kind=kind, hidden=[8]), dims, {}, seed=3)
    torch.nn.init.constant_(named.bias, 0.5)
    generator = torch.Generator().manual_seed(1)
    inputs = {name: torch.randn(6, dim, generator=generator) for name in names}
    data = export_graph(named, dims)
    assert DenseGraph(data).check(named, inputs) <= 1e-5
    assert data == export_graph(named, dims)
    proto = onnx.load_from_string(data)
    onnx.checker.check_model(proto)
    assert [node.name for node in proto.graph.input] == [*names, *(f"w:{name}" for name in named.state_dict())]


@pytest.mark.parametrize("name", ["logit", "w:bias", "w:/val_2", ""])
def test_feature_names_that_the_graph_needs_are_refused(name):
    with pytest.raises(InputError, match="rename them"):
        export_graph(build_model(ModelConfig(kind="fm"), {name: 5}, {}), {name: 5})


@pytest.mark.parametrize(("kind", "dim"), [("lr", 1), ("fm", 5), ("deepfm", 5)])
def test_dense_features_are_inputs_of_the_graph_and_move_the_logit(kind, dim):
    dims, widths = {"user": dim, "movie": dim}, {"price": 1, "image": 3}
    built = build_model(ModelConfig(kind=kind, hidden=[8]), dims, widths, seed=3)
    generator = torch.Generator().manual_seed(1)
    inputs = {name: torch.randn(6, width, generator=generator) for name, width in {**dims, **widths}.items()}
    data = export_graph(built, {**dims, **widths})
    assert DenseGraph(data).check(built, inputs) <= 1e-5
    assert [node.name for node in onnx.load_from_string(data).graph.input][:4] == ["user", "movie", "price", "image"]
    moved = inputs | {"image": inputs["image"] + 1}
    assert not torch.equal(built(moved), built(inputs))


def test_damaged_graph_is_refused(graph):
    with pytest.raises(CorruptError, match="onnxruntime"):
        DenseGraph(graph[: len(graph) // 2])


def test_weights_come_back_and_equal_weights_are_equal_bytes():
    first, second = model(seed=1), model(seed=2)
    assert dense_weights(first) != dense_weights(second)
    load_dense_weights(second, dense_weights(first))
    assert dense_weights(first) == dense_weights(second)
