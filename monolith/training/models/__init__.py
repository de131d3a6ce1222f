"""The networks over the embeddings: each takes vectors and dense numbers by name and gives a logit for each task."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from monolith.config import ModelConfig
from monolith.config.model_rules import is_own, part_faults, setting_faults, width_faults
from monolith.errors import ConfigError
from monolith.training.devices import CPU
from monolith.training.models.dcnv2 import DCNV2
from monolith.training.models.deepfm import DeepFM
from monolith.training.models.dlrm import DLRM
from monolith.training.models.fm import FM
from monolith.training.models.lr import LR
from monolith.training.models.mlp import MLP
from monolith.training.models.own import own_model
from monolith.training.models.widedeep import WideDeep

__all__ = ["DCNV2", "DLRM", "FM", "LR", "MLP", "DeepFM", "WideDeep", "build_model"]

_OF_LAYERS: dict[str, Callable[..., torch.nn.Module]] = {
    "deepfm": DeepFM,
    "widedeep": WideDeep,
    "mlp": MLP,
    "dcnv2": DCNV2,
    "dlrm": DLRM,
}


def build_model(
    config: ModelConfig,
    vectors: Mapping[str, int],
    dense: Mapping[str, int],
    seed: int = 0,
    tasks: int = 1,
    device: torch.device = CPU,
) -> torch.nn.Module:
    """The model that ``config`` names, over ``vectors`` (name -> dim) and ``dense`` features (name -> width).

    Its forward takes {name: (batch, dim or width) float32} and returns logits, (batch,) for one task, (batch, tasks)
    for several. Initial weights depend on ``seed`` alone, unless a class of the user's draws them from elsewhere;
    torch's global generator is left as it was. They are drawn on the CPU, so they are the same on every ``device``,
    and a class of the user's is tried in both places.

    Raises ConfigError if widths, dense features, tasks or settings do not suit the model, and for a class of the user's
    that cannot be imported, built or used.
    """
    for key, fault in setting_faults(config):
        raise ConfigError(f"model.{key}: {fault}")
    for name, fault in width_faults(config.kind, vectors):
        raise ConfigError(f"model {config.kind} needs other widths: {name!r}: {fault}; they are {dict(vectors)}")
    for fault in part_faults(config.kind, has_dense=bool(dense), tasks=tasks):
        raise ConfigError(fault)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if is_own(config.kind):
            return own_model(config, vectors, dense, tasks, device)
        if config.kind == "lr":
            return LR(list(vectors), dense).to(device)
        if config.kind == "fm":
            return FM(list(vectors), dense).to(device)
        return _OF_LAYERS[config.kind](vectors, dense, config, tasks).to(device)
