"""Proof that what is served is what was trained: every row in a store compared with the trainer's, bit by bit.

The trainer's row is packed as it was when it was published, and then all bits must be equal: no tolerance.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from monolith.serving.payload import Packed
from monolith.serving.store import Store
from monolith.tables.published import HasRows

Ids = npt.NDArray[np.int64]
Values = npt.NDArray[np.float32]
Rows = tuple[Ids, Values] | tuple[Ids, Packed]


@dataclass(frozen=True, slots=True)
class Parity:
    """How the rows of one table compare."""

    equal: int  # in both, the same bits
    missing: int  # the trainer has it, the store does not
    stale: int  # in both, with different bits
    zombie: int  # the store has it, the trainer does not

    @property
    def exact(self) -> bool:
        """Whether nothing differs."""
        return self.missing == self.stale == self.zombie == 0


def compare(store: Store, tables: Mapping[str, HasRows]) -> dict[str, Parity]:
    """Parity of what the trainer publishes, by name. Take a moment in which nobody trains; deltas on the way are stale.

    Raises InputError if the store has no table of a name.
    """
    return {name: _compare_table(store, name, table.rows()) for name, table in tables.items()}


def _compare_table(store: Store, name: str, trained: tuple[Ids, Values]) -> Parity:
    """Chunk by chunk: a store may be larger than memory has room for several of."""
    ids, values = trained
    if (ids[1:] < ids[:-1]).any():
        order = np.argsort(ids)
        ids, values = ids[order], values[order]
    seen, equal, zombies = np.zeros(len(ids), np.bool_), 0, [ids[:0]]
    for stored_ids, stored, form in store.packed_rows(name):
        chunk_ids, first = np.unique(stored_ids, return_index=True)
        places = np.searchsorted(ids, chunk_ids)
        found = _at(ids, places) == chunk_ids if ids.size else np.zeros(len(chunk_ids), np.bool_)
        zombies.append(chunk_ids[~found])
        mine, theirs = places[found], first[found]
        new = ~seen[mine]  # a scan of Redis may show a row twice
        mine, theirs = mine[new], theirs[new]
        seen[mine] = True
        equal += int((_bits(form.pack(values[mine])) == _bits(stored[theirs])).all(axis=1).sum())
    both = int(seen.sum())
    return Parity(
        equal=equal,
        missing=len(ids) - both,
        stale=both - equal,
        zombie=np.unique(np.concatenate(zombies)).size,
    )


def _at(ids: Ids, places: npt.NDArray[np.intp]) -> Ids:
    """``ids`` at ``places``, of which those behind the last are the last."""
    return ids[np.minimum(places, len(ids) - 1)]


def compare_rows(trained: Rows, stored: Rows) -> Parity:
    """Parity of (ids, rows) with (ids, rows) of one format, ids being unique in each."""
    both, mine, theirs = np.intersect1d(trained[0], stored[0], assume_unique=True, return_indices=True)
    equal = int((_bits(trained[1][mine]) == _bits(stored[1][theirs])).all(axis=1).sum()) if both.size else 0
    return Parity(
        equal=equal,
        missing=len(trained[0]) - both.size,
        stale=both.size - equal,
        zombie=len(stored[0]) - both.size,
    )


def compare_images(left: Store, right: Store) -> list[str]:
    """How two stores differ in what they serve, in words; empty when they serve the same bits.

    What names a run rather than a result is left out: lineage, generation, and the wall time of publishing.
    """
    a, b = left.image(), right.image()
    facts = [
        ("sequence", a.delta.sequence, b.delta.sequence),
        ("step", a.delta.step, b.delta.step),
        ("watermark_ms", a.delta.watermark_ms, b.delta.watermark_ms),
        ("tables", a.model.card.tables, b.model.card.tables),
        ("kinds", a.model.card.kinds, b.model.card.kinds),
        ("features", a.model.card.features, b.model.card.features),
        ("tasks", a.model.card.tasks, b.model.card.tasks),
        ("payload", a.delta.payload, b.delta.payload),
    ]
    blobs = [("dense weights", a.model.dense, b.model.dense), ("graph", a.model.graph, b.model.graph)]
    differences = [f"{what}: {x} and {y}" for what, x, y in facts if x != y]
    differences += [f"{what}: {len(x)} and {len(y)} bytes, not the same" for what, x, y in blobs if x != y]
    if a.delta.payload != b.delta.payload:
        return differences
    for name in sorted(a.delta.tables.keys() & b.delta.tables.keys()):
        mine, theirs = a.delta.tables[name], b.delta.tables[name]
        parity = compare_rows((mine.ids, mine.packed), (theirs.ids, theirs.packed))
        if not parity.exact:
            differences.append(f"table {name}: {parity}")
    return differences


def _bits(rows: Values | Packed) -> npt.NDArray[np.uint8]:
    """Rows as bytes, so that NaN equals itself and 0.0 is not -0.0."""
    return np.ascontiguousarray(rows).view(np.uint8)
