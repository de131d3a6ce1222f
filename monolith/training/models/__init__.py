"""The networks over the embeddings: each takes one vector a feature and gives one logit a sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from monolith.card import CardFeature
from monolith.config import ModelConfig
from monolith.errors import ConfigError
from monolith.training.models.deepfm import DeepFM
from monolith.training.models.fm import FM
from monolith.training.models.lr import LR

__all__ = ["DeepFM", "FM", "LR", "build_model"]


def build_model(
    config: ModelConfig, features: Sequence[CardFeature], table_dims: Mapping[str, int], seed: int = 0
) -> torch.nn.Module:
    """The model that ``config`` names, over ``features`` with the dims of their tables.

    Its forward takes {feature: (batch, dim) float32} and returns logits (batch,). Initial weights depend on ``seed``
    alone; torch's global generator is left as it was. Raises ConfigError if the dims do not suit the model.
    """
    dim = _common_dim(config.kind, table_dims)
    names = [feature.name for feature in features]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if config.kind == "lr":
            return LR(names)
        if config.kind == "fm":
            return FM(names)
        return DeepFM(names, dim - 1, config.hidden)


def _common_dim(kind: str, table_dims: Mapping[str, int]) -> int:
    dims = set(table_dims.values())
    if kind == "lr" and dims != {1}:
        raise ConfigError(f"model lr needs dim 1 in every table, the tables have {dict(table_dims)}: set dim: 1")
    if kind != "lr" and (len(dims) != 1 or min(dims) < 2):
        raise ConfigError(
            f"model {kind} needs the same dim in every table, at least 2 (column 0 is the first-order weight, the rest "
            f"is the factor vector); the tables have {dict(table_dims)}: give all tables one dim"
        )
    return dims.pop()
