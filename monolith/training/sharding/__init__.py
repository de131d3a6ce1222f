"""Training on several processes: tables divided by bucket between the ranks of a torch.distributed process group.

Read in this order to follow one step: `natives` (what a table of another kind is divided as), `division` (who has which
rows), `questions` (what a rank asks of the owners), `transport`, `answers` (what an owner does), `readings` (vectors of
rows that came), `collection` (a step over all of it); then `module` (as a torch module),
`sharder` (under TorchRec's DistributedModelParallel), `saved` and `checkpoint` (on disk), `publisher` (to a store).
`monolith train` on several processes is built on `collection`: `group` (how they meet), `orders` (what rank 0 tells
the others), `learner` (a rank's half of a model), `sweeping`, `leader` (rank 0's learner) and `follower` (the others).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from monolith.training.sharding.collection import ShardedCollection, ShardedStep
from monolith.training.sharding.module import ShardedEmbeddingBagCollection
from monolith.training.sharding.publisher import ShardedPublisher

if TYPE_CHECKING:
    from monolith.training.sharding.sharder import CollectionSharder

__all__ = ["CollectionSharder", "ShardedCollection", "ShardedEmbeddingBagCollection", "ShardedPublisher", "ShardedStep"]


def __getattr__(name: str) -> Any:
    if name == "CollectionSharder":  # on first use: it imports torchrec's planner, which takes seconds
        from monolith.training.sharding.sharder import CollectionSharder

        return CollectionSharder
    raise AttributeError(f"monolith.training.sharding has no {name!r}; it has {', '.join(__all__)}")
