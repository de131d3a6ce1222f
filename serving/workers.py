"""Threads that answer what takes long, a slice of time each in turn, while the event loop goes on answering the rest.

Work comes as a generator (``Pieces``) that rests after every piece. A thread takes pieces for ``SLICE_S`` and then goes
to the next request in line, so a request of a few milliseconds never waits for one of a second to end.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, cast

from monolith.serving.errors import BusyError
from monolith.serving.pieces import Pieces

SLICE_S = 0.002

_T = TypeVar("_T")


class Workers:
    """``threads`` that work and at most ``max_waiting`` requests that wait for one. For the event loop's thread."""

    def __init__(self, threads: int, max_waiting: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="answers")
        self._most = threads + max_waiting
        self.inside = 0  # requests that are worked on or wait

    async def run(self, work: Pieces[_T], abandoned: Callable[[], Awaitable[None]]) -> _T:
        """What ``work`` makes. ``abandoned`` is asked between slices, and raises if nobody wants that any more.

        Raises BusyError at once if too many wait, and what ``work`` raises.
        """
        if self.inside >= self._most:
            raise BusyError(f"{self.inside} requests are being answered or wait, at most {self._most} may: ask later")
        self.inside += 1
        try:
            loop = asyncio.get_running_loop()
            while True:
                done, result = await loop.run_in_executor(self._pool, _slice, work)
                if done:
                    return cast(_T, result)
                await abandoned()
        finally:
            self.inside -= 1


def _slice(work: Pieces[_T]) -> tuple[bool, _T | None]:
    """Some pieces of the work; whether that was all, and what it made."""
    until = time.perf_counter() + SLICE_S
    try:
        while True:
            next(work)
            if time.perf_counter() > until:
                return False, None
    except StopIteration as end:
        return True, end.value
