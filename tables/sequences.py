"""At which sequence a table stands, where that is not by its own cuts: for tables that nobody trains yet."""

from __future__ import annotations

from monolith.tables import _core
from monolith.tables.table import Table


def reopen(table: Table, sequence: int, *, floor: int, steps: int | None = None) -> None:
    """Have ``sequence`` be the open one, and deltas start from ``floor`` on; with ``steps``, so many were made."""
    now = table.native.clockwork()
    made = now.steps if steps is None else steps
    table.native.set_clockwork(
        _core.Clockwork(sequence, floor, now.clock_ms, now.sweep_cursor, made, now.eviction_cursor)
    )
