"""The torch side: modules over tables, models, the trainer. torch and torchrec are imported here and nowhere else.

Read in this order to follow one step: ``trainer``, ``learner``, ``embeddings`` with ``lookup``, ``models``, ``loss``;
then ``snapshot`` for what is kept, and ``export`` for what is served.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from monolith.training.embeddings import EmbeddingBagCollection

__all__ = ["EmbeddingBagCollection"]


def __getattr__(name: str) -> Any:
    if name == "EmbeddingBagCollection":  # on first use: a look at a snapshot needs no torch
        from monolith.training.embeddings import EmbeddingBagCollection

        return EmbeddingBagCollection
    raise AttributeError(f"monolith.training has no {name!r}; it has {', '.join(__all__)}")
