"""Two copies of one thing, so that readers never wait and never see a change half made.

Readers use the copy in front. A writer changes the one behind, brings it to the front, waits until the last reader has
left the other, and makes the same change there (Ramalhete and Correia's left-right technique). A reader takes no lock:
it signs in, looks whether the copy is still in front, and signs out. (Adding to a set and reading an attribute are
single steps in CPython, with and without the GIL.)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

T = TypeVar("T")

_LOOK_AGAIN_S = 0.0005


class _Copy(Generic[T]):
    """One of the two, and who reads it."""

    def __init__(self, value: T) -> None:
        self.value = value
        self.readers: set[object] = set()


class LeftRight(Generic[T]):
    """``front`` and ``back`` must be equal and share nothing that a change touches."""

    def __init__(self, front: T, back: T) -> None:
        self._front = _Copy(front)
        self._back = _Copy(back)

    @contextmanager
    def reading(self) -> Iterator[T]:
        """The copy in front, unchanged for as long as the block runs. Any thread; keep the block short."""
        ticket = object()
        while True:
            copy = self._front
            copy.readers.add(ticket)
            if copy is self._front:
                break
            copy.readers.discard(ticket)
        try:
            yield copy.value
        finally:
            copy.readers.discard(ticket)

    def change(self, change: Callable[[T], None]) -> None:
        """Make the same change to both; readers see it as a whole. One thread at a time.

        If ``change`` raises, the copy in front is as it was and the other one is not to be trusted: build a new pair.
        """
        change(self._back.value)
        self._front, self._back = self._back, self._front
        while self._back.readers:
            time.sleep(_LOOK_AGAIN_S)
        change(self._back.value)
