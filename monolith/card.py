"""The model card: what a serving replica must know about a model besides its numbers.

It is written to the store when a trainer takes a model over, as JSON, and says which tables there are, which feature
reads which, and how feature values become ids.
"""

from __future__ import annotations

import msgspec

CARD_VERSION = 1


class CardFeature(msgspec.Struct, frozen=True, kw_only=True):
    """One input feature, in the order of the dense graph's inputs."""

    name: str
    table: str
    type: str  # int | string
    bag: bool
    pooling: str  # sum | mean
    salted: bool  # the key is hash(feature, id), since the table holds several features


class ModelCard(msgspec.Struct, frozen=True, kw_only=True):
    """Everything but the weights."""

    model: str
    lineage: str  # names one run from its first step on; a fresh start has another
    tables: dict[str, int]  # name -> dim; the rows that absent ids share are a table as well, NAME#tail
    features: list[CardFeature]
    tails: dict[str, int] = {}  # table -> number of rows that its absent ids share, where they do
    kind: str = "deepfm"
    ignore_unknown: bool = False  # features that are not listed are skipped, not refused
    payload: str = "float32"  # how rows are published, see ``monolith.serving.payload``
    version: int = CARD_VERSION
