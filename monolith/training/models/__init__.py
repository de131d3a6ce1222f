"""The networks over the embeddings: each takes vectors and dense numbers by name and gives one logit a sample."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from monolith.config import ModelConfig
from monolith.errors import ConfigError
from monolith.training.models.deepfm import DeepFM
from monolith.training.models.fm import FM
from monolith.training.models.lr import LR

__all__ = ["DeepFM", "FM", "LR", "build_model"]


def build_model(
    config: ModelConfig, vectors: Mapping[str, int], dense: Mapping[str, int], seed: int = 0
) -> torch.nn.Module:
    """The model that ``config`` names, over ``vectors`` (name -> dim) and ``dense`` features (name -> width).

    Its forward takes {name: (batch, dim or width) float32} and returns logits (batch,). Initial weights depend on
    ``seed`` alone; torch's global generator is left as it was. Raises ConfigError if the dims do not suit the model.
    """
    dim = _common_dim(config.kind, vectors)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if config.kind == "lr":
            return LR(list(vectors), dense)
        if config.kind == "fm":
            return FM(list(vectors), dense)
        return DeepFM(list(vectors), dense, dim - 1, config.hidden)


def _common_dim(kind: str, vectors: Mapping[str, int]) -> int:
    dims = set(vectors.values())
    if kind == "lr" and dims != {1}:
        raise ConfigError(f"model lr needs dim 1 in every table, the tables have {dict(vectors)}: set dim: 1")
    if kind != "lr" and (len(dims) != 1 or min(dims) < 2):
        raise ConfigError(
            f"model {kind} needs the same dim in every table, at least 2 (column 0 is the first-order weight, the rest "
            f"is the factor vector); the tables have {dict(vectors)}: give all tables one dim"
        )
    return dims.pop()
