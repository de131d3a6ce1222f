"""Our dropout does what torch's does."""

from __future__ import annotations

import pytest
import torch

from monolith.training.models.dropout import Dropout


@pytest.mark.parametrize("p", [0.1, 0.5, 0.93, 1e-7])
def test_outputs_are_dropped_with_the_probability_and_the_others_make_up_for_it(p: float):
    torch.manual_seed(3)
    inputs = torch.ones(2000, 150)
    outputs = Dropout(p)(inputs)
    share = max(p, 2**-16)
    assert float((outputs == 0).double().mean()) == pytest.approx(share, abs=5 * (share * (1 - share) / 3e5) ** 0.5)
    assert outputs[outputs != 0].unique().tolist() == pytest.approx([1 / (1 - share)], rel=2e-3)
    rows, columns = ((outputs == 0).double().mean(d) for d in (0, 1))
    for shares, count in ((rows, 2000), (columns, 150)):
        assert float((shares - share).abs().max()) < 6 * (share * (1 - share) / count) ** 0.5 + 2 / count


def test_neighbours_are_dropped_apart_from_each_other():
    torch.manual_seed(4)
    dropped = (Dropout(0.3)(torch.ones(100, 4000)) == 0).double()
    for step in (1, 2, 3, 4):
        both = float((dropped[:, :-step] * dropped[:, step:]).mean())
        assert both == pytest.approx(0.09, abs=0.003)


def test_gradients_go_where_outputs_stayed():
    torch.manual_seed(5)
    inputs = torch.randn(7, 5, requires_grad=True)
    outputs = Dropout(0.4)(inputs)
    outputs.sum().backward()
    assert torch.allclose(inputs.grad * inputs.detach(), outputs.detach())
    assert torch.equal(inputs.grad == 0, outputs.detach() == 0)


def test_a_generator_at_the_same_place_drops_the_same_and_eval_mode_nothing():
    layer, inputs = Dropout(0.5), torch.randn(9, 33)
    first, second = (layer(inputs) for _ in range(2) if torch.manual_seed(8))
    assert torch.equal(first, second)
    assert layer.eval()(inputs) is inputs
