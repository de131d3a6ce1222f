"""Keeps gradients away from the dense optimizer that it could not survive: NaN, infinity, and finite ones too large.

Adagrad and Adam square a gradient in float32. A square that overflows is an accumulator at infinity, which nothing
brings down again: the weight would stand still for ever, without a word.
"""

from __future__ import annotations

import math

import numpy as np
from torch import nn

# Its square is 2^100, so that even Adagrad can add up 2^28 of them, some hundred million steps, below float32's 2^128.
LARGEST = 2.0**50


def unfit_gradient(model: nn.Module) -> str | None:
    """The first weight whose gradient is not within +-LARGEST, and what it is there, in words; None if all are."""
    with np.errstate(over="ignore", invalid="ignore"):
        for name, weight in model.named_parameters():
            if weight.grad is None:
                continue
            flat = weight.grad.cpu().numpy().ravel()
            if np.dot(flat, flat) <= LARGEST**2:  # one fast pass; only where it is more is a closer look needed
                continue
            largest = float(np.abs(flat).max())  # NaN, if there is one
            if not largest <= LARGEST:
                what = "NaN" if math.isnan(largest) else f"a size of {largest:g}"
                return f"the gradient of dense weight {name!r} holds {what}"
    return None
