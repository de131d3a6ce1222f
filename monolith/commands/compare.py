"""Whether two snapshots hold the same bits."""

from __future__ import annotations

from pathlib import Path

from monolith.streaming.joiner_segments import FOLDER
from monolith.streaming.reader_state import STATE_FILE, whole_state
from monolith.tables import Table, saved, snapshot
from monolith.tables.buckets import ALL_BUCKETS
from monolith.tables.kind_file import read_kept, read_kind
from monolith.tables.kinds import parts_saved
from monolith.training.snapshot import RANKS, Snapshot, open_snapshot

HISTORY = "history.bin"


def compare_snapshots(left: Path, right: Path) -> list[str]:
    """What differs, in words; empty when every file and the cut itself (step, sequence, lineage) are equal.

    The job texts may differ (another state folder, another store); the files may not. But for the history, which says
    by which way a state was reached: see `same_history`. And but for how the joiner is cut into segments, which earlier
    snapshots decide, and how a table is cut into parts, which the number of processes decides: what these hold together
    is compared.
    """
    snapshots = open_snapshot(left), open_snapshot(right)
    a, b = (each.manifest for each in snapshots)
    differences = [
        f"{what}: {x} and {y}"
        for what, x, y in [
            ("step", a.step, b.step),
            ("sequence", a.sequence, b.sequence),
            ("lineage", a.lineage, b.lineage),
        ]
        if x != y
    ]
    in_segments = any(name.startswith(f"{FOLDER}/") for name in a.files.keys() | b.files.keys())
    divided = _divided_otherwise(*snapshots)
    differences += [f"table {name} holds something else" for name in divided if not _same_table(name, *snapshots)]
    names = {
        name
        for name in a.files.keys() | b.files.keys()
        if not name.startswith((f"{FOLDER}/", *(f"tables/{table}/" for table in divided)))
    } - {HISTORY, RANKS}
    if in_segments:
        names.remove(STATE_FILE)
        if whole_state(snapshots[0].read) != whole_state(snapshots[1].read):
            differences.append(f"{STATE_FILE} and the segments of the joiner hold something else")
    for name in sorted(names):
        if a.files.get(name) != b.files.get(name):
            differences.append(f"file {name}: {a.files.get(name)} and {b.files.get(name)}")
    return differences


def _divided_otherwise(left: Snapshot, right: Snapshot) -> list[str]:
    """The tables that both have, in other parts."""
    files = [{name for name in each.manifest.files if name.startswith("tables/")} for each in (left, right)]
    both = left.tables().keys() & right.tables().keys()
    return [name for name in sorted(both) if _below(name, files[0]) != _below(name, files[1])]


def _below(table: str, files: set[str]) -> set[str]:
    return {name for name in files if name.startswith(f"tables/{table}/")}


def _same_table(name: str, left: Snapshot, right: Snapshot) -> bool:
    """Whether the table's parts make one and the same file when they are put together."""
    whole = []
    for each in (left, right):
        folder = each.tables()[name]
        parts = {part: Table.open(below) for part, below in parts_saved(folder).items()}
        files = {
            part: snapshot.to_bytes(saved.header_of(table, ALL_BUCKETS), saved.exported(table, ALL_BUCKETS))
            for part, table in parts.items()
        }
        whole.append((read_kind(folder), read_kept(folder), files))
    return whole[0] == whole[1]


def same_history(left: Path, right: Path) -> bool:
    """Whether two snapshots of the same bits came to them by the same steps under the same settings."""
    a, b = open_snapshot(left).manifest, open_snapshot(right).manifest
    return a.files.get(HISTORY) == b.files.get(HISTORY)
