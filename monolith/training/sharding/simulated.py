"""Ranks that are threads of one process: the exchange between many ranks, on one machine.

Every rank runs the code that a process of its own would run; only what would cross the network is copied. For tests,
and for `bench/simulate_ranks.py`, which counts what many ranks would send.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from monolith.training.sharding.transport import Transport, Wire

Ints = npt.NDArray[np.int64]
Result = TypeVar("Result")


class Meeting:
    """Where the threads of one group put what the others take."""

    def __init__(self, ranks: int) -> None:
        self.ranks = ranks
        self._all_here = threading.Barrier(ranks)
        self._brought: list[Any] = [None] * ranks

    def exchange(self, rank: int, mine: object, take: Callable[[Sequence[Any]], Result]) -> Result:
        """``take`` of what every rank brought; nobody changes what it brought before all have taken theirs.

        Raises threading.BrokenBarrierError where another rank has left.
        """
        self._brought[rank] = mine
        self._all_here.wait()
        try:
            return take(self._brought)
        finally:
            self._all_here.wait()

    def leave(self) -> None:
        """Have all who wait, and who come, fail."""
        self._all_here.abort()


class SimulatedTransport(Transport):
    """The transport of one rank among threads."""

    def __init__(self, meeting: Meeting, rank: int, wire: Wire = "float32") -> None:
        self._meeting = meeting
        self._begin(rank, meeting.ranks, wire)

    def all_to_all(
        self, back: torch.Tensor, out: torch.Tensor, sizes_back: list[int], sizes: list[int], *, beside: bool = False
    ) -> Any:
        """See `Transport`; it is done at once."""

        def take(brought: Sequence[tuple[torch.Tensor, list[int]]]) -> None:
            at = 0
            for (theirs, their_sizes), size in zip(brought, sizes_back, strict=True):
                begin = sum(their_sizes[: self.rank])
                back[at : at + size] = theirs[begin : begin + size]
                at += size

        self._meeting.exchange(self.rank, (out, sizes), take)
        return _Done() if beside else None

    def gather(self, numbers: Ints) -> Ints:
        """See `Transport`."""
        return self._meeting.exchange(self.rank, numbers, np.stack)

    def objects(self, mine: object) -> list[object]:
        """See `Transport`."""
        return self._meeting.exchange(self.rank, mine, list)


class _Done:
    def wait(self) -> bool:
        return True


def run_ranks(ranks: int, work: Callable[[SimulatedTransport], Result], wire: Wire = "float32") -> list[Result]:
    """``work(transport)`` for each rank, in a thread each; what they return, by rank. The first error is raised."""
    meeting = Meeting(ranks)

    def one(rank: int) -> Result:
        try:
            return work(SimulatedTransport(meeting, rank, wire))
        except BaseException:
            meeting.leave()
            raise

    with ThreadPoolExecutor(ranks) as threads:
        futures = [threads.submit(one, rank) for rank in range(ranks)]
    errors = [error for future in futures if (error := future.exception()) is not None]
    for error in sorted(errors, key=lambda error: isinstance(error, threading.BrokenBarrierError)):
        raise error
    return [future.result() for future in futures]
