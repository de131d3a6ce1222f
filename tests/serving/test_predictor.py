"""The ONNX graph and the weights that are fed to it."""

from __future__ import annotations

import numpy as np
import pytest

from monolith.errors import CorruptError
from monolith.serving.predictor import Predictor, load_weights, sigmoid


@pytest.fixture
def graph(recommender):
    return recommender.store.graph()


FEATURES = ["user", "movie", "last_movie", "tags"]


def test_a_graph_that_is_none_is_corrupt():
    with pytest.raises(CorruptError, match="graph of here cannot be loaded"):
        Predictor(b"not a graph", FEATURES, "here")


def test_a_graph_for_other_features_is_refused(graph):
    with pytest.raises(CorruptError, match=r"wants inputs \['tags'\]"):
        Predictor(graph, FEATURES[:-1], "here")


def test_missing_weights_are_named(graph):
    vectors = {name: np.ones((2, 4), np.float32) for name in FEATURES}
    with pytest.raises(CorruptError, match=r"\['w:bias'\]"):
        Predictor(graph, FEATURES, "here").predict(vectors, {"w:scale": np.ones(1, np.float32)})


def test_weights_of_another_shape_are_corrupt(graph):
    vectors = {name: np.ones((2, 4), np.float32) for name in FEATURES}
    weights = {"w:scale": np.ones((3, 3), np.float32), "w:bias": np.ones(1, np.float32)}
    with pytest.raises(CorruptError, match="graph of here cannot be run on its weights and 2 samples"):
        Predictor(graph, FEATURES, "here").predict(vectors, weights)


def test_one_graph_serves_many_versions_of_the_weights(graph):
    predictor = Predictor(graph, FEATURES, "here")
    vectors = {name: np.ones((1, 4), np.float32) for name in FEATURES}
    for bias in (-16.0, -17.0):
        weights = {"w:scale": np.ones(1, np.float32), "w:bias": np.array([bias], np.float32)}
        assert predictor.predict(vectors, weights) == pytest.approx(1 / (1 + np.exp(-(16 + bias))))


def test_weights_that_are_no_safetensors_are_corrupt():
    with pytest.raises(CorruptError, match="dense weights of here cannot be read"):
        load_weights(b"nonsense", "here")


def test_no_weights_are_weights():
    assert load_weights(b"", "here") == {}


def test_sigmoid_keeps_both_ends():
    logits = np.array([-1e9, -80.0, 0.0, 80.0, 1e9], np.float32)
    probabilities = sigmoid(logits)
    assert probabilities.dtype == np.float32
    assert probabilities[1] == pytest.approx(np.exp(-80.0), rel=1e-6)
    assert probabilities.tolist()[2:] == [0.5, 1.0, 1.0]
