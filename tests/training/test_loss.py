"""The correction of negative sampling in the loss."""

from __future__ import annotations

import math

import torch

from monolith.training.loss import sampled_bce


def test_without_sampling_it_is_plain_cross_entropy():
    logits, labels = torch.tensor([0.3, -2.0, 4.0]), torch.tensor([1.0, 0.0, 0.0])
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels)
    assert sampled_bce(logits, labels, torch.ones(3)) == expected


def test_positives_and_negatives_of_a_thinned_slice_are_both_shifted():
    logits, rates = torch.tensor([0.5, 0.5]), torch.tensor([0.1, 0.1])
    z = 0.5 - math.log(0.1)
    expected = (math.log1p(math.exp(-z)) + math.log1p(math.exp(z))) / 2
    assert math.isclose(sampled_bce(logits, torch.tensor([1.0, 0.0]), rates).item(), expected, rel_tol=1e-6)


def test_best_logit_of_thinned_data_is_the_true_log_odds():
    # true rate 3 %; negatives of slice a all kept, of slice b one in ten: 30 positives in 1,000, or in 30 + 97
    logit = torch.zeros(2, requires_grad=True)
    labels = torch.cat([torch.ones(30), torch.zeros(970), torch.ones(30), torch.zeros(97)])
    rates = torch.cat([torch.ones(1000), torch.full((127,), 0.1)])
    slices = torch.cat([torch.zeros(1000, dtype=torch.long), torch.ones(127, dtype=torch.long)])
    optimizer = torch.optim.LBFGS([logit], max_iter=100, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = sampled_bce(logit[slices], labels, rates)
        loss.backward()
        return loss

    optimizer.step(closure)
    torch.testing.assert_close(torch.sigmoid(logit.detach()), torch.tensor([0.03, 0.03]), rtol=1e-3, atol=0)
