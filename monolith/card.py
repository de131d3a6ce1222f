"""The model card: what a serving replica must know about a model besides its numbers.

It is written to the store when a trainer takes a model over, as JSON, and says which tables there are, which feature
reads which, and how feature values become ids and numbers.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Literal

import msgspec

from monolith.config.features import FeatureConfig
from monolith.config.kinds import Kind
from monolith.config.labels import LossKind

# 3 had collisionless tables only; 2 had one binary task; 1 had integers and strings alone, each read by one table
CARD_VERSION = 4


class Read(msgspec.Struct, frozen=True, kw_only=True):
    """One table that reads a feature, and the vector that comes of it."""

    table: str
    output: str  # name of the vector: the feature, or feature@table where several tables read the feature
    pooling: str  # sum | mean
    salted: bool  # the key is hash(feature, id), since the table holds several features


class CardFeature(msgspec.Struct, frozen=True, kw_only=True):
    """One input feature, in the job's order. Without reads it is dense."""

    config: FeatureConfig
    seed: str  # the name that seeds the hash of its strings
    reads: list[Read]

    @property
    def name(self) -> str:
        """The feature's name."""
        return self.config.name


class CardTask(msgspec.Struct, frozen=True, kw_only=True):
    """One output of the graph: of loss ``log`` the logit of a probability, of loss ``squared`` the number itself."""

    name: str = "label"
    loss: LossKind = "log"


class ModelCard(msgspec.Struct, frozen=True, kw_only=True):
    """Everything but the weights."""

    model: str
    lineage: str  # names one run from its first step on; a fresh start has another
    tables: dict[str, int]  # name -> width of all rows that are published; NAME#PART is a part of table NAME
    features: list[CardFeature]
    kinds: dict[str, Kind] = {}  # table -> how its ids become vectors, where their rows are not their own
    tails: dict[str, int] = {}  # table -> number of rows that its absent ids share, where they do
    tasks: list[CardTask] = msgspec.field(default_factory=lambda: [CardTask()])  # in the order of the graph's outputs
    kind: str = "deepfm"
    ignore_unknown: bool = False  # features that are not listed are skipped, not refused
    payload: str = "float32"  # how rows are published, see ``monolith.serving.payload``
    version: int = CARD_VERSION


def oldest_version(card: ModelCard) -> int:
    """The oldest card version that says all of ``card``: builds that know no other kind of table read the rest."""
    return card.version if card.kinds else min(card.version, 3)


class _FeatureV1(msgspec.Struct, frozen=True):
    name: str
    table: str
    type: Literal["int", "string"]
    bag: bool
    pooling: str
    salted: bool


def upgraded(features: list[Any]) -> list[CardFeature]:
    """The features of a card of version 1, as this build has them. Raises `msgspec.ValidationError`."""
    old = msgspec.convert(features, list[_FeatureV1])
    sharing = Counter(feature.table for feature in old if not feature.salted)
    return [
        CardFeature(
            config=FeatureConfig(name=f.name, type=f.type, bag=f.bag),
            seed=f.table if sharing[f.table] > 1 else f.name,
            reads=[Read(table=f.table, output=f.name, pooling=f.pooling, salted=f.salted)],
        )
        for f in old
    ]
