"""A model in a replica's memory: all its tables and dense weights, twice, so that reading goes on while deltas land."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from monolith.config.table import SGD, Never, TableConfig
from monolith.serving.inference import Gathered, Request
from monolith.serving.ledger import Version
from monolith.serving.left_right import LeftRight
from monolith.serving.predictor import Weights, load_weights
from monolith.serving.store import Image
from monolith.serving.wire import PublishedDelta
from monolith.tables import Table
from monolith.tables.delta import ModelDelta


@dataclass(slots=True)
class _Side:
    """One copy."""

    version: Version
    tables: dict[str, Table]
    weights: Weights

    def gather(self, requests: Sequence[Request], weights: bool) -> Gathered:
        rows = [self.tables[name].lookup(ids) for name, ids in requests]
        return Gathered(self.version, rows, self.weights if weights else {})


class ModelMemory:
    """Filled from an image, moved on by deltas. Reading takes no lock and any thread; ``apply`` is for one."""

    def __init__(self, image: Image, where: str) -> None:
        self._where = where
        self.tables: Mapping[str, int] = image.model.card.tables
        weights = load_weights(image.model.dense, where)
        sides = [_Side(image.model.version, _load_tables(self.tables, image.delta), weights) for _ in range(2)]
        self._sides = LeftRight(*sides)

    @property
    def version(self) -> Version:
        """What a request would be answered from now."""
        with self._sides.reading() as side:
            return side.version

    def gather(self, requests: Sequence[Request], weights: bool) -> Gathered:
        """Rows for each (table, ids), and the dense weights if they are wanted."""
        with self._sides.reading() as side:
            return side.gather(requests, weights)

    def apply(self, published: PublishedDelta) -> None:
        """Make the delta visible as a whole. Raises GapError if it does not follow; load an image after any error."""
        delta = published.delta
        weights = load_weights(delta.dense, self._where)
        version = Version(
            generation=published.generation,
            sequence=delta.sequence,
            lineage=published.lineage,
            image=self.version.image,
            step=delta.step,
            watermark_ms=delta.watermark_ms,
            published_ms=published.published_ms,
        )

        def change(side: _Side) -> None:
            for name, table in side.tables.items():
                table.apply(delta.tables[name])
            side.version, side.weights = version, weights

        self._sides.change(change)


def _load_tables(dims: Mapping[str, int], image: ModelDelta) -> dict[str, Table]:
    """Tables that hold the image and whatever deltas bring, but never make a row of their own."""
    tables = {}
    for name, dim in dims.items():
        tables[name] = Table(TableConfig(name=name, dim=dim, admission=Never(), optimizer=SGD()))
        tables[name].apply(image.tables[name])
    return tables
