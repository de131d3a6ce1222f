"""A class for torchrec (its DLRM, DLRM_DCN, DLRM_Projection, SimpleDeepFMNN) over the vectors of our tables.

Such a class is built on an embedding collection and called with dense features and jagged ids. Here the collection is a
stand-in, and what it is called with are the vectors themselves. Imports torchrec, which takes seconds.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torchrec.modules.embedding_configs import EmbeddingBagConfig

from monolith.errors import ConfigError

_COUNTS = ("dense_in_features", "num_dense_features")  # what torchrec's constructors call the number of dense numbers


class TorchrecModel(nn.Module):
    """``model``, of the class, fed from {name: (batch, width)}. A sigmoid at its end is taken off: we give logits."""

    def __init__(
        self,
        made: Callable[..., nn.Module],
        vectors: Mapping[str, int],
        dense: Mapping[str, int],
        options: Mapping[str, Any],
    ) -> None:
        super().__init__()
        if not dense:
            raise ConfigError("torchrec's models read dense features, and there is none; give the job one")
        self.vectors, self.numbers = list(vectors), list(dense)
        taken = inspect.signature(made).parameters
        counts = {name: sum(dense.values()) for name in _COUNTS if name in taken}
        self.model = made(embedding_bag_collection=_Collection(vectors), **counts, **options)
        _take_off_sigmoid(self.model)

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """What the class gives."""
        numbers = torch.cat([inputs[name] for name in self.numbers], dim=1)
        outputs: Tensor = self.model(numbers, _Vectors({name: inputs[name] for name in self.vectors}))
        return outputs


class _Vectors(dict[str, Tensor]):
    """As much of torchrec's KeyedTensor as its models read; torch.export sees through a dict."""

    def to_dict(self) -> dict[str, Tensor]:
        return dict(self)


class _Collection(nn.Module):
    """Says of the vectors what a collection says of its tables; its output is its input."""

    def __init__(self, vectors: Mapping[str, int]) -> None:
        super().__init__()
        self._configs = [
            EmbeddingBagConfig(name=name, embedding_dim=dim, num_embeddings=1, feature_names=[name])
            for name, dim in vectors.items()
        ]

    def embedding_bag_configs(self) -> list[EmbeddingBagConfig]:
        return self._configs

    def forward(self, features: _Vectors) -> _Vectors:
        return features


def _take_off_sigmoid(model: nn.Module) -> None:
    """Torchrec's SimpleDeepFMNN ends in a sigmoid, though its documentation calls the output logits."""
    last = getattr(getattr(model, "over_arch", None), "model", None)
    if isinstance(last, nn.Sequential) and isinstance(last[-1], nn.Sigmoid):
        del last[-1]
