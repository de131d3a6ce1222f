"""A store compared, bit by bit, with the trainer's newest snapshot."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from monolith.serving.parity import Parity, compare
from monolith.serving.store import open_store
from monolith.tables import Table
from monolith.tables.tail import HasRows, published
from monolith.training.snapshot import Snapshot, find_snapshot


@dataclass(frozen=True)
class ParityReport:
    """Parity by table, at which sequence either side stands."""

    tables: dict[str, Parity]
    store_sequence: int
    snapshot_sequence: int
    payload: str  # of the store: the snapshot's rows are packed alike before they are compared

    @property
    def exact(self) -> bool:
        """Whether every row is equal, none missing, stale or zombie."""
        return all(parity.exact for parity in self.tables.values())

    def lines(self) -> Iterator[str]:
        """For people."""
        yield f"store at sequence {self.store_sequence}, snapshot at sequence {self.snapshot_sequence}"
        if self.payload != "float32":
            yield f"  rows are compared as {self.payload}, bit by bit"
        for name, p in self.tables.items():
            yield f"  table {name}: {p.equal:,} equal, {p.missing:,} missing, {p.stale:,} stale, {p.zombie:,} zombie"
        if not self.exact and self.store_sequence != self.snapshot_sequence:
            yield "  the two are of different moments, so rows that changed between them differ"


def against_snapshot(url: str, model: str | None, state: Path) -> ParityReport:
    """Compare the store at ``url`` with a snapshot: the newest of the state folder ``state``, or ``state`` itself."""
    newest = find_snapshot(state)
    tables = _tables(newest)
    store = open_store(url, model or newest.manifest.model, create=False)
    try:
        parity = compare(store, tables)
        held = store.model()
        return ParityReport(parity, held.version.sequence, newest.manifest.sequence, held.card.payload)
    finally:
        store.close()


def snapshot_tables(state: Path) -> dict[str, HasRows]:
    """What is published of the newest snapshot in the state folder ``state``, by name."""
    return _tables(find_snapshot(state))


def _tables(snapshot: Snapshot) -> dict[str, HasRows]:
    return published({name: Table.open_to_read(folder) for name, folder in snapshot.tables().items()})
