"""Whether two snapshots hold the same bits."""

from __future__ import annotations

from pathlib import Path

from monolith.training.snapshot import open_snapshot

HISTORY = "history.bin"


def compare_snapshots(left: Path, right: Path) -> list[str]:
    """What differs, in words; empty when every file and the cut itself (step, sequence, lineage) are equal.

    The job texts may differ (another state folder, another store); the files may not. But for the history, which says
    by which way a state was reached: see `same_history`.
    """
    a, b = open_snapshot(left).manifest, open_snapshot(right).manifest
    differences = [
        f"{what}: {x} and {y}"
        for what, x, y in [
            ("step", a.step, b.step),
            ("sequence", a.sequence, b.sequence),
            ("lineage", a.lineage, b.lineage),
        ]
        if x != y
    ]
    for name in sorted((a.files.keys() | b.files.keys()) - {HISTORY}):
        if a.files.get(name) != b.files.get(name):
            differences.append(f"file {name}: {a.files.get(name)} and {b.files.get(name)}")
    return differences


def same_history(left: Path, right: Path) -> bool:
    """Whether two snapshots of the same bits came to them by the same steps under the same settings."""
    a, b = open_snapshot(left).manifest, open_snapshot(right).manifest
    return a.files.get(HISTORY) == b.files.get(HISTORY)
