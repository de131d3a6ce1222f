"""The processes of a sweep: each works on one trial at a time, and one that dies costs its trial only."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import NamedTuple

from monolith.config.load import job_from_json
from monolith.sweep.trials import Outcome
from monolith.sweep.worker import Progress, Task, work

END_S = 5.0  # for a worker that was told to end, before it is killed


class _Worker(NamedTuple):
    process: BaseProcess
    channel: Connection


class Crew:
    """At most ``size`` workers, started as they are needed. A context manager that ends all of them at once."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
        self._idle: list[_Worker] = []
        self._busy: dict[Connection, tuple[_Worker, Task]] = {}

    def __enter__(self) -> Crew:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        workers = [*self._idle, *(worker for worker, _ in self._busy.values())]
        for worker in workers:
            worker.process.terminate()
        deadline = time.monotonic() + END_S
        for worker in workers:
            worker.process.join(max(0.0, deadline - time.monotonic()))
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
            worker.channel.close()

    @property
    def running(self) -> int:
        """Trials that are being fitted."""
        return len(self._busy)

    def has_room(self) -> bool:
        """Whether a worker has nothing to do."""
        return len(self._busy) < self._size

    def start(self, task: Task) -> None:
        """Give ``task`` to a worker."""
        sent = False
        while not sent:
            worker = self._idle.pop() if self._idle else self._new()
            try:
                worker.channel.send(task)
                sent = True
            except OSError:  # it died while it had nothing to do
                worker.channel.close()
        self._busy[worker.channel] = (worker, task)

    def events(self, timeout_s: float) -> Iterator[tuple[Task, Progress | Outcome]]:
        """What the workers told within ``timeout_s``; a `Progress` must be answered by `answer`."""
        for channel in wait(list(self._busy), timeout_s):
            assert isinstance(channel, Connection)
            worker, task = self._busy[channel]
            try:
                told: Progress | Outcome = channel.recv()
            except (EOFError, OSError):
                del self._busy[channel]
                yield task, _lost(worker, task)
                continue
            if isinstance(told, Outcome):
                del self._busy[channel]
                self._idle.append(worker)
            yield task, told

    def answer(self, task: Task, goes_on: bool) -> None:
        """Let the trial of ``task`` go on to its next epoch, or stop it."""
        worker = next(worker for worker, other in self._busy.values() if other.trial == task.trial)
        with suppress(OSError):  # it died since: `events` tells so
            worker.channel.send(goes_on)

    def _new(self) -> _Worker:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=work, args=(theirs,), name="monolith-sweep", daemon=True)
        process.start()
        theirs.close()
        return _Worker(process, ours)


def _lost(worker: _Worker, task: Task) -> Outcome:
    """The outcome of a trial whose process is gone."""
    worker.process.join()
    code = worker.process.exitcode or 0
    how = f"by signal {-code}" if code < 0 else f"with status {code}"
    hint = ": the system kills so where memory is short; try --workers 1" if code == -9 else ""
    job = job_from_json(task.job)
    return Outcome(
        trial=task.trial,
        settings=task.settings,
        seed=job.seed,
        status="failed",
        metric=task.metric,
        error=f"its process ended {how}{hint}",
        ended_ms=time.time_ns() // 1_000_000,
    )
