"""A store compared, bit by bit, with the trainer's newest snapshot, where the two are of one moment."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from monolith.errors import CorruptError
from monolith.serving.parity import Parity, compare
from monolith.serving.store import Store, open_store
from monolith.tables.kinds import open_to_read
from monolith.tables.published import HasRows, published
from monolith.training.history import newest_digest
from monolith.training.snapshot import HISTORY_SINCE, Snapshot, find_snapshot


@dataclass(frozen=True)
class Moment:
    """Up to where a store or a snapshot holds a run."""

    run: str  # the lineage without its revision
    sequence: int
    step: int
    digest: str = ""  # of what the sequence was made from; empty: not written by the build of the time
    trained_on: bool = False  # whether rows changed after the sequence was cut

    def __str__(self) -> str:
        return f"sequence {self.sequence}, step {self.step}"


@dataclass(frozen=True)
class ParityReport:
    """Parity by table, or why the rows of two moments are not compared."""

    tables: dict[str, Parity]  # empty where nothing was compared
    store: Moment
    snapshot: Moment
    payload: str  # of the store: the snapshot's rows are packed alike before they are compared
    apart: str | None = None  # why the two are of different moments; None: they are of one

    @property
    def exact(self) -> bool:
        """Whether both are of one moment and every row is equal, none missing, stale or zombie."""
        return self.apart is None and all(parity.exact for parity in self.tables.values())

    def lines(self) -> Iterator[str]:
        """For people."""
        yield f"store at {self.store}; snapshot at {self.snapshot}"
        if self.apart is not None:
            yield f"  of different moments, so rows were not compared: {self.apart}"
            return
        if self.payload != "float32":
            yield f"  rows are compared as {self.payload}, bit by bit"
        for name, p in self.tables.items():
            yield f"  table {name}: {p.equal:,} equal, {p.missing:,} missing, {p.stale:,} stale, {p.zombie:,} zombie"


def against_snapshot(url: str, model: str | None, state: Path) -> ParityReport:
    """Compare the store at ``url`` with a snapshot: the newest of the state folder ``state``, or ``state`` itself."""
    newest = find_snapshot(state)
    store = open_store(url, model or newest.manifest.model, create=False)
    try:
        payload, of_store, of_snapshot = store.card().payload, _moment_of_store(store), _moment_of_snapshot(newest)
        apart = why_apart(of_store, of_snapshot)
        tables = {} if apart else compare(store, _tables(newest))
        return ParityReport(tables, of_store, of_snapshot, payload, apart)
    finally:
        store.close()


def why_apart(store: Moment, snapshot: Moment) -> str | None:
    """Why rows of the two may differ though all is well, and what to do; None where they must be equal."""
    if store.run != snapshot.run:
        return f"the store is of run {store.run}, the snapshot of run {snapshot.run}"
    if store.sequence > snapshot.sequence:
        return (
            "the trainer published after the snapshot. Compare with a newer one: stop the trainer (SIGTERM), which "
            "ends with a publish and a snapshot of one moment"
        )
    if store.sequence < snapshot.sequence:
        return "the store lacks what was published last. Start the trainer: it publishes that first"
    if snapshot.trained_on:
        return (
            "the trainer trained on between its last publish and the snapshot. Stop the trainer (SIGTERM), which ends "
            "with a publish and a snapshot of one moment"
        )
    if store.digest and snapshot.digest and store.digest != snapshot.digest:
        return (
            "the sequence of that number was made from other steps, as by a state folder restored from a backup. Start "
            "the trainer: it sends the store an image"
        )
    return None


def _moment_of_store(store: Store) -> Moment:
    look = store.look()
    return Moment(look.version.lineage.partition(".")[0], look.version.sequence, look.version.step, look.digest)


def _moment_of_snapshot(snapshot: Snapshot) -> Moment:
    manifest, digest = snapshot.manifest, ""
    if manifest.version >= HISTORY_SINCE:
        digest = newest_digest(snapshot.read("history.bin"), str(snapshot.path / "history.bin"))
    return Moment(manifest.lineage, manifest.sequence, manifest.step, digest, not _is_clean(snapshot))


def _is_clean(snapshot: Snapshot) -> bool:
    """Whether nothing changed since the last cut."""
    try:
        return msgspec.msgpack.decode(snapshot.read("clock.bin"), type=tuple[int, bool])[1]
    except msgspec.DecodeError as error:
        raise CorruptError(f"{snapshot.path / 'clock.bin'} cannot be read: {error}") from error


def snapshot_tables(state: Path) -> dict[str, HasRows]:
    """What is published of the newest snapshot in the state folder ``state``, by name."""
    return _tables(find_snapshot(state))


def _tables(snapshot: Snapshot) -> dict[str, HasRows]:
    return published({name: open_to_read(folder) for name, folder in snapshot.tables().items()})
