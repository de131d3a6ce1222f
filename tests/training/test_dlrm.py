"""Our DLRM computes what torchrec's does, and becomes a graph that does too."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.numpy import load
from torchrec.models.dlrm import DenseArch, InteractionArch, OverArch

from monolith.config import ModelConfig
from monolith.errors import ConfigError
from monolith.training.export import DenseGraph, dense_weights, export_graph
from monolith.training.models import DLRM, build_model

DIM, BATCH = 6, 7
VECTORS = dict.fromkeys(("user", "movie", "tags"), DIM)
DENSE = {"age": 1, "image": 4}
CONFIG = ModelConfig(kind="dlrm", hidden=[9, 5], bottom=[11, 8])


def inputs_of(batch: int = BATCH) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    return {name: torch.randn(batch, width, generator=generator) for name, width in {**VECTORS, **DENSE}.items()}


@pytest.mark.parametrize("tasks", [1, 2])
def test_equal_weights_give_torchrecs_logits(tasks):
    ours = build_model(CONFIG, VECTORS, DENSE, seed=4, tasks=tasks)
    pairs = (len(VECTORS) + 1) * len(VECTORS) // 2
    bottom, top = DenseArch(5, [*CONFIG.bottom, DIM]), OverArch(DIM + pairs, [*CONFIG.hidden, tasks])
    for theirs, part in ((bottom, ours.bottom), (top, ours.top)):
        weights = list(part.state_dict().values())
        names = list(theirs.state_dict())
        theirs.load_state_dict(dict(zip(names, weights, strict=True)))
    inputs = inputs_of()
    numbers = bottom(torch.cat([inputs[name] for name in DENSE], dim=1))
    vectors = torch.stack([inputs[name] for name in VECTORS], dim=1)
    expected = top(InteractionArch(len(VECTORS))(numbers, vectors))
    got = ours(inputs)
    assert got.shape == ((BATCH,) if tasks == 1 else (BATCH, tasks))
    torch.testing.assert_close(got.reshape(BATCH, tasks), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("tasks", [1, 3])
def test_the_exported_graph_gives_the_same_logits_for_any_batch(tasks):
    model = build_model(CONFIG, VECTORS, DENSE, tasks=tasks)
    graph = DenseGraph(export_graph(model, {**VECTORS, **DENSE}))
    for batch in (1, 5):
        assert graph.check(model, inputs_of(batch)) < 1e-5
    logits = graph.logits({n: x.numpy() for n, x in inputs_of().items()}, load(dense_weights(model)))
    assert logits.shape == ((BATCH,) if tasks == 1 else (BATCH, tasks))
    assert np.isfinite(logits).all()


def test_vectors_of_other_widths_or_no_dense_feature_are_refused():
    with pytest.raises(ConfigError, match="the model dlrm takes tables of one dim; saw 5"):
        build_model(CONFIG, VECTORS | {"tags": 5}, DENSE)
    with pytest.raises(ConfigError, match="reads dense features with its bottom MLP"):
        build_model(CONFIG, VECTORS, {})
    assert isinstance(build_model(CONFIG, VECTORS, DENSE), DLRM)
