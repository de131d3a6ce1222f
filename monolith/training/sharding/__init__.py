"""Training on several processes: tables divided by bucket between the ranks of a torch.distributed process group.

Read in this order to follow one step: `division` (who has which rows), `questions` (what a rank asks of the owners),
`transport`, `answers` (what an owner does), `collection` (a step over all of it), `module` (as a torch module).
"""

from __future__ import annotations

from monolith.training.sharding.collection import ShardedCollection, ShardedStep

__all__ = ["ShardedCollection", "ShardedStep"]
