"""Which rank had which buckets of a table in a snapshot, with how many rows, and how uneven the buckets are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np


def owners(folder: Path, ranks: int) -> Iterator[str]:
    """A line for each rank that had parts of the table saved in ``folder``, and one on its buckets."""
    from monolith.tables.buckets import union
    from monolith.tables.saved import opened

    with opened(folder) as table:
        files, rows = table.files, np.zeros(1024, np.int64)
        for file in files:
            for bucket in file.held:
                rows[bucket] = file.directory[bucket].rows
        for rank in range(ranks):
            own = [file for part, file in enumerate(files) if part * ranks // len(files) == rank]
            buckets = union(file.held for file in own)
            held = int(rows[[*buckets]].sum())
            share = held / rows.sum() if rows.sum() else 0.0
            parts = f"{len(own)} parts, " if len(own) > 1 else ""
            yield f"    rank {rank}: {parts}{buckets}; {held:,} rows, {share:.1%}"
    yield f"    rows of a bucket: {_skew(rows)}"


def _skew(rows: np.ndarray[tuple[int], np.dtype[np.int64]]) -> str:
    if not rows.any():
        return "none"
    fullest = int(rows.argmax())
    return (
        f"{rows.mean():,.1f} in the mean, {int(rows.min()):,} to {int(rows.max()):,}; bucket {fullest} has "
        f"{rows.max() / rows.mean():.2f} times the mean"
    )
