"""Whether two snapshots hold the same bits."""

from __future__ import annotations

from pathlib import Path

from monolith.streaming.joiner_segments import FOLDER
from monolith.streaming.reader_state import STATE_FILE, whole_state
from monolith.training.snapshot import open_snapshot

HISTORY = "history.bin"


def compare_snapshots(left: Path, right: Path) -> list[str]:
    """What differs, in words; empty when every file and the cut itself (step, sequence, lineage) are equal.

    The job texts may differ (another state folder, another store); the files may not. But for the history, which says
    by which way a state was reached: see `same_history`. And but for how the joiner is cut into segments, which earlier
    snapshots decide: what they hold together is compared.
    """
    snapshots = open_snapshot(left), open_snapshot(right)
    a, b = (snapshot.manifest for snapshot in snapshots)
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
    names = {name for name in a.files.keys() | b.files.keys() if not name.startswith(f"{FOLDER}/")} - {HISTORY}
    if in_segments:
        names.remove(STATE_FILE)
        if whole_state(snapshots[0].read) != whole_state(snapshots[1].read):
            differences.append(f"{STATE_FILE} and the segments of the joiner hold something else")
    for name in sorted(names):
        if a.files.get(name) != b.files.get(name):
            differences.append(f"file {name}: {a.files.get(name)} and {b.files.get(name)}")
    return differences


def same_history(left: Path, right: Path) -> bool:
    """Whether two snapshots of the same bits came to them by the same steps under the same settings."""
    a, b = open_snapshot(left).manifest, open_snapshot(right).manifest
    return a.files.get(HISTORY) == b.files.get(HISTORY)
