"""What a compiler calls as it is. To be imported where one is at work: ``torch.compiler.disable`` loads all of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from monolith.tables.batch import Bag

if TYPE_CHECKING:
    from monolith.training.embeddings import EmbeddingBagCollection
    from monolith.training.jagged import EventTimes


@torch.compiler.disable  # type: ignore[untyped-decorator]
def forward_bags(
    collection: EmbeddingBagCollection, bags: Mapping[str, Bag], event_time_ms: EventTimes
) -> dict[str, torch.Tensor]:
    """``collection.forward_bags`` outside of the graph."""
    return collection.forward_bags(bags, event_time_ms)
