"""A model of the user's: ``kind: package.module:Class``, tried before it is trained.

The class is called as ``Class(vectors, dense, tasks, **options)``: the widths of vectors and of dense features by name,
and the number of tasks. Its forward takes {name: (batch, width) float32} of both and gives logits, (batch, tasks), or
(batch,) where there is one task. A class whose constructor asks for an ``embedding_bag_collection`` is one for torchrec
and is called as those are (``torchrec_model``). ``docs/models.md`` has the contract in a user's words.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from monolith.config import ModelConfig
from monolith.echo import shown
from monolith.errors import ConfigError
from monolith.training.devices import CPU
from monolith.training.models.trial import said, try_model


class OwnModel(nn.Module):
    """The user's module as ``net``; outputs of one task come out as (batch,), also where it gives (batch, 1)."""

    def __init__(self, net: nn.Module, tasks: int) -> None:
        super().__init__()
        self.net = net
        self.tasks = tasks

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Logits, (batch,) or (batch, tasks)."""
        outputs: Tensor = self.net(inputs)
        return outputs.squeeze(1) if self.tasks == 1 and outputs.dim() == 2 else outputs


def own_model(
    config: ModelConfig, vectors: Mapping[str, int], dense: Mapping[str, int], tasks: int, device: torch.device = CPU
) -> OwnModel:
    """The module that ``config.kind`` names, built, tried, and tried on ``device`` too, where it then is.

    Raises ConfigError, which says what went wrong where.
    """
    made = _class_of(config.kind)
    with said(f"model {config.kind} cannot be built with options {shown(config.options)}"):
        if "embedding_bag_collection" in inspect.signature(made).parameters:
            from monolith.training.models.torchrec_model import TorchrecModel

            net: nn.Module = TorchrecModel(made, vectors, dense, config.options)
        else:
            net = made(dict(vectors), dict(dense), tasks, **config.options)
    model = OwnModel(net, tasks)
    try_model(model, {**vectors, **dense}, tasks, config.kind)
    if device != CPU:
        try_model(model.to(device), {**vectors, **dense}, tasks, config.kind, device)
    return model


def _class_of(kind: str) -> type[nn.Module]:
    module, _, name = kind.partition(":")
    with said(f"model {kind}: the module {module!r} cannot be imported (its folder must be on PYTHONPATH)"):
        found = getattr(importlib.import_module(module), name, None)
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        seen = "has no such name" if found is None else f"has {shown(found)} there"
        raise ConfigError(f"model {kind}: {module!r} {seen}; allowed is a class of torch.nn.Module")
    return found
