"""The layers of a multilayer perceptron, as `model` in the job file asks for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from monolith.config import ModelConfig
from monolith.training.models.dropout import Dropout

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}


def mlp_layers(width: int, sizes: Sequence[int], config: ModelConfig) -> tuple[list[nn.Module], int]:
    """Layers of ``sizes`` over ``width`` numbers: linear, norm, activation, dropout; and the width that comes out.

    A linear layer is at twice its number, so that its weights are called alike with and without norm or dropout.
    """
    layers: list[nn.Module] = []
    for size in sizes:
        layers += [nn.Linear(width, size), _after_linear(size, config)]
        width = size
    return layers, width


def _after_linear(size: int, config: ModelConfig) -> nn.Module:
    parts: list[nn.Module] = []
    if config.norm != "none":
        parts.append(nn.BatchNorm1d(size) if config.norm == "batch" else nn.LayerNorm(size))
    parts.append(ACTIVATIONS[config.activation]())
    if config.dropout:
        parts.append(Dropout(config.dropout))
    return parts[0] if len(parts) == 1 else nn.Sequential(*parts)
