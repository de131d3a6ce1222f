"""The memory that all requests of a server may take at a time, each its share.

Small requests are not counted, so that they are answered while large ones are turned away. Any thread may call it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType

from monolith.serving.errors import BusyError, TooLargeError

SMALL_BYTES = 64 * 2**10


class Allowance:
    """At most ``most`` bytes; ``others`` tells how many are taken besides by what is no request any more."""

    def __init__(self, most: int, others: Callable[[], int]) -> None:
        self._most = most
        self._others = others
        self._lock = threading.Lock()
        self._taken = 0

    def take(self, size: int) -> None:
        """Raises BusyError if so much is not left."""
        with self._lock:
            if self._taken + size + self._others() > self._most:
                raise BusyError(
                    f"all requests at a time may take {self._most} bytes (serve.max_request_bytes), "
                    f"{self._taken + self._others()} are taken, {size} are asked for: ask later"
                )
            self._taken += size

    def give_back(self, size: int) -> None:
        """The opposite of ``take``."""
        with self._lock:
            self._taken -= size

    def check(self, size: int) -> None:
        """Raise TooLargeError for what can never be."""
        if size > self._most:
            raise TooLargeError(
                f"one request would take {size} bytes, at most {self._most} (serve.max_request_bytes) are allowed: "
                "ask in several requests"
            )


class Share:
    """What one request takes, until its block ends."""

    def __init__(self, allowance: Allowance) -> None:
        self._allowance = allowance
        self._size = 0  # what it holds
        self._taken = 0  # of the allowance

    def grow(self, size: int) -> None:
        """Hold ``size`` bytes more. Raises BusyError (come again) and TooLargeError (never)."""
        self._size += size
        if self._size <= SMALL_BYTES:
            return
        self._allowance.check(self._size)
        self._allowance.take(self._size - self._taken)
        self._taken = self._size

    def __enter__(self) -> Share:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._taken:
            self._allowance.give_back(self._taken)
