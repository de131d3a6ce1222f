"""One call at a time changes a table: a lock that its own thread cannot wait for."""

from __future__ import annotations

import threading
from types import TracebackType

from monolith.errors import InputError


class Writer:
    """Held while a table changes. A call from within another, which a score function could make, is an InputError."""

    __slots__ = ("_lock", "_owner")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._owner = 0

    def acquire(self) -> None:
        """Wait until no other thread has it."""
        if self._owner == threading.get_ident():
            raise InputError("a score function calls its own table, of which it may only look rows up")
        self._lock.acquire()
        self._owner = threading.get_ident()

    def release(self) -> None:
        """Let the next have it."""
        self._owner = 0
        self._lock.release()

    __enter__ = acquire

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.release()
