"""The loss of a click: binary cross-entropy that undoes negative sampling, so that the logit needs no correction later.

Where a slice's negatives were kept with probability r, the odds in the sample are 1/r times the true odds. Taking the
loss at ``logit - ln r``, for positives and negatives of the slice alike, leaves ``logit`` itself on the true scale
(Monolith's logit correction, on the training side).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def sampled_bce(logits: Tensor, labels: Tensor, rates: Tensor) -> Tensor:
    """Mean cross-entropy over the batch at ``logits - ln rates``; all (batch,) float32, rates in (0, 1]."""
    return functional.binary_cross_entropy_with_logits(logits - torch.log(rates), labels)
