"""The networks over the embeddings: each takes vectors and dense numbers by name and gives a logit for each task."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from monolith.config import ModelConfig
from monolith.config.model_rules import part_faults, width_faults
from monolith.errors import ConfigError
from monolith.training.models.deepfm import DeepFM
from monolith.training.models.dlrm import DLRM
from monolith.training.models.fm import FM
from monolith.training.models.lr import LR

__all__ = ["DLRM", "FM", "LR", "DeepFM", "build_model"]


def build_model(
    config: ModelConfig, vectors: Mapping[str, int], dense: Mapping[str, int], seed: int = 0, tasks: int = 1
) -> torch.nn.Module:
    """The model that ``config`` names, over ``vectors`` (name -> dim) and ``dense`` features (name -> width).

    Its forward takes {name: (batch, dim or width) float32} and returns logits, (batch,) for one task, (batch, tasks)
    for several. Initial weights depend on ``seed`` alone; torch's global generator is left as it was.

    Raises ConfigError if widths, dense features or tasks do not suit the model.
    """
    for name, fault in width_faults(config.kind, vectors):
        raise ConfigError(f"model {config.kind} needs other widths: {name!r}: {fault}; they are {dict(vectors)}")
    for fault in part_faults(config.kind, has_dense=bool(dense), tasks=tasks):
        raise ConfigError(fault)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if config.kind == "lr":
            return LR(list(vectors), dense)
        if config.kind == "fm":
            return FM(list(vectors), dense)
        if config.kind == "dlrm":
            return DLRM(vectors, dense, config.bottom, config.hidden, tasks)
        return DeepFM(vectors, dense, config.hidden, tasks)
