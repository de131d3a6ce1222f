"""How many threads share a large call of any table in the process. No result depends on it."""

from __future__ import annotations

from monolith.tables import _core
from monolith.tables.arguments import checked_count

_MAX_THREADS = 64


def set_threads(threads: int) -> None:
    """From now on, calls of some thousand ids are worked on by ``threads`` threads, 1 to 64; at first by one.

    Raises InputError.
    """
    _core.set_threads(checked_count(threads, 1, _MAX_THREADS, "threads"))


def threads() -> int:
    """What was set."""
    return _core.threads()
