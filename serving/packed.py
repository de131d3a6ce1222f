"""A delta as it is published: what ``monolith.tables.delta`` has, with rows in the model's payload."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from monolith.errors import InputError
from monolith.serving.payload import Packed, RowFormat
from monolith.tables.delta import Delta, ModelDelta
from monolith.tables.tail import tail_name

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class PackedTable:
    """Rows written and ids removed in one table after ``base_sequence``, up to and with ``sequence``."""

    base_sequence: int
    sequence: int
    ids: Ids  # (n,), ascending
    packed: Packed  # (n, format.width)
    removed: Ids  # (m,), ascending; disjoint from ids
    format: RowFormat

    @property
    def values(self) -> npt.NDArray[np.float32]:
        """The rows as they are read, (n, dim); unpacked at every call."""
        return self.format.unpack(self.packed)


@dataclass(frozen=True, slots=True)
class PackedDelta:
    """All tables and the dense weights of one sequence number; see ``ModelDelta``. Every table is of ``payload``."""

    base_sequence: int
    sequence: int
    step: int
    watermark_ms: int
    tables: dict[str, PackedTable]
    dense: bytes
    ingested_ms: Ids  # (k,)
    payload: str
    digest: str = ""  # of the trainer's history; a store keeps it, a published delta does not carry it


def pack_delta(delta: ModelDelta, payload: str) -> PackedDelta:
    """``delta`` with its rows packed. Raises InputError where ids and values do not belong together."""
    return PackedDelta(
        base_sequence=delta.base_sequence,
        sequence=delta.sequence,
        step=delta.step,
        watermark_ms=delta.watermark_ms,
        tables={name: pack_table(name, table, payload) for name, table in published(delta.tables)},
        dense=delta.dense,
        ingested_ms=delta.ingested_ms,
        payload=payload,
        digest=delta.digest,
    )


def published(tables: Mapping[str, Delta]) -> Iterator[tuple[str, Delta]]:
    """Each table, and behind it the rows that its absent ids share."""
    for name, table in tables.items():
        yield name, table
        if table.tail is not None:
            yield tail_name(name), table.tail


def pack_table(name: str, table: Delta, payload: str) -> PackedTable:
    """One table with its rows packed. Raises InputError where ids and values do not belong together."""
    shape, count = table.values.shape, len(table.ids)
    if len(shape) != 2 or count != shape[0] or shape[1] == 0:
        raise InputError(
            f"cannot publish delta {table.sequence}: table {name!r} has {count} ids for values of shape {shape}"
        )
    form = RowFormat(payload, shape[1])
    return PackedTable(table.base_sequence, table.sequence, table.ids, form.pack(table.values), table.removed, form)
