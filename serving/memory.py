"""A model in a replica's memory: all its tables and dense weights, twice, so that reading goes on while deltas land.

Rows stay in the model's payload, and are unpacked when they are read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from monolith.card import ModelCard
from monolith.config.absent import AbsentZeros, HashedTail
from monolith.config.admission import Never
from monolith.config.optimizers import SGD
from monolith.config.table import TableConfig
from monolith.errors import GapError
from monolith.serving.inference import Gathered
from monolith.serving.ledger import Version
from monolith.serving.left_right import LeftRight
from monolith.serving.packed import PackedDelta, PackedTable
from monolith.serving.payload import RowFormat
from monolith.serving.predictor import Weights, load_weights
from monolith.serving.store import Found, Ids, Image, Values
from monolith.serving.wire import PublishedDelta
from monolith.tables import Table
from monolith.tables.delta import Delta
from monolith.tables.published import owner_of
from monolith.tables.tail import tail_name
from monolith.tables.vectors import Request

_WORD = 4  # bytes


class PackedRows:
    """One table's packed rows by id.

    They lie in a ``Table`` of float32 *words*: a row's bytes, padded to whole ones. The table copies words as they
    are, makes no row of its own and trains nothing, so they need be no numbers; all zeros read as zeros in any payload.
    Ids without a row read one of ``tail_rows`` shared ones, where there are any.
    """

    def __init__(self, name: str, form: RowFormat, tail_rows: int = 0) -> None:
        self._format = form
        self._padding = -form.width % _WORD
        words = (form.width + self._padding) // _WORD
        absent = HashedTail(rows=tail_rows) if tail_rows else AbsentZeros()
        config = TableConfig(name=owner_of(name), dim=words, admission=Never(), optimizer=SGD(), absent=absent)
        self._words = Table(config, tombstones=None)  # nobody asks a replica for deltas

    def lookup(self, ids: Ids) -> Values:
        """(n, dim) values, zeros for ids that neither have nor share a row."""
        packed = self._words.lookup(ids).view(np.uint8)
        return self._format.unpack(packed[:, : self._format.width])

    def contains(self, ids: Ids) -> Found:
        """(n,) which ids have rows of their own."""
        return self._words.contains(ids)

    def apply(self, table: PackedTable, tail: PackedTable | None = None) -> None:
        """Rows as given, removed ids gone; an image replaces everything. Raises as ``Table.apply`` does."""
        self._words.apply(self._in_words(table, None if tail is None else self._in_words(tail)))

    def _in_words(self, table: PackedTable, tail: Delta | None = None) -> Delta:
        packed = np.pad(table.packed, ((0, 0), (0, self._padding))) if self._padding else table.packed
        words = np.ascontiguousarray(packed).view(np.float32)
        return Delta(table.base_sequence, table.sequence, table.ids, words, table.removed, tail)

    def bytes_held(self) -> int:
        """Memory of rows and index."""
        stats = self._words.stats()
        return (
            stats.bytes_values + stats.bytes_state + stats.bytes_overhead + stats.bytes_counters + stats.bytes_scratch
        )


@dataclass(slots=True)
class _Side:
    """One copy."""

    version: Version
    tables: dict[str, PackedRows]
    weights: Weights

    def gather(self, requests: Sequence[Request], weights: bool, mask: bool) -> Gathered:
        rows = [self.tables[name].lookup(ids) for name, ids in requests]
        found = [self.tables[name].contains(ids) for name, ids in requests] if mask else None
        return Gathered(self.version, rows, self.weights if weights else {}, found)


class ModelMemory:
    """Filled from an image, moved on by deltas. Reading takes no lock and any thread; ``apply`` is for one."""

    def __init__(self, image: Image, where: str) -> None:
        self._where = where
        self.tables: Mapping[str, int] = image.model.card.tables
        self._payload = image.delta.payload
        weights = load_weights(image.model.dense, where)
        with ThreadPoolExecutor(2) as at_once:
            filling = [at_once.submit(_load_tables, image.model.card, image.delta) for _ in range(2)]
        self._sides = LeftRight(*(_Side(image.model.version, tables.result(), weights) for tables in filling))

    @property
    def version(self) -> Version:
        """What a request would be answered from now."""
        with self._sides.reading() as side:
            return side.version

    def gather(self, requests: Sequence[Request], weights: bool, mask: bool = False) -> Gathered:
        """Rows for each (table, ids), and the dense weights and which ids have rows if they are wanted."""
        with self._sides.reading() as side:
            return side.gather(requests, weights, mask)

    def apply(self, published: PublishedDelta) -> None:
        """Make the delta visible as a whole. Raises GapError if it does not follow; load an image after any error."""
        delta = published.delta
        if delta.payload != self._payload:
            raise GapError(f"{self._where}: delta {delta.sequence} has {delta.payload} rows, {self._payload} are held")
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
                table.apply(delta.tables[name], delta.tables.get(tail_name(name)))
            side.version, side.weights = version, weights

        self._sides.change(change)


def _load_tables(card: ModelCard, image: PackedDelta) -> dict[str, PackedRows]:
    """Tables that hold the image and whatever deltas bring."""
    tables = {}
    for name, dim in card.tables.items():
        tables[name] = PackedRows(name, RowFormat(image.payload, dim), card.tails.get(name, 0))
        tables[name].apply(image.tables[name], image.tables.get(tail_name(name)))
    return tables
