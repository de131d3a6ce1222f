"""Reading beside training: while a step is trained on, a thread polls and decodes what the next one will be cut from.

Only the sources and the decoder are touched by the thread, and by nobody else until `ReadAhead.wait`; lanes, journal,
gate and joiner stay with the reader's own thread. What was polled ahead is in no step, so it shows in no state.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from monolith.streaming.lanes import Inlet, Polling


class ReadAhead:
    """Of the inlets of one `StepReader`, whose thread owns it."""

    def __init__(self, inlets: Sequence[Inlet], most: int) -> None:
        """``most``: records of each inlet, at a time."""
        self._inlets, self._most = inlets, most
        self._pool: ThreadPoolExecutor | None = None
        self._running: Future[BaseException | None] | None = None
        self._found: list[tuple[Inlet, Polling]] = []
        self._error: BaseException | None = None

    def begin(self) -> None:
        """Start to poll every lane that has room."""
        self.wait()
        asked = [
            (inlet, roomy)
            for inlet in self._inlets
            if (roomy := [partition for partition, lane in inlet.lanes.items() if lane.has_room(self._most)])
        ]
        if not asked or self._found or self._error is not None:
            return
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, thread_name_prefix="read-ahead")
        self._running = self._pool.submit(self._poll, asked)

    def _poll(self, asked: Sequence[tuple[Inlet, list[int]]]) -> BaseException | None:
        """In the thread. An error ends it; what came before the error counts."""
        try:
            for inlet, partitions in asked:
                if (polling := inlet.ask(self._most, 0.0, partitions)) is not None:
                    self._found.append((inlet, polling))
        except BaseException as error:  # raised by `accept`, where polling would have raised it
            return error
        return None

    def wait(self) -> None:
        """Afterwards the sources are the caller's; what was polled stays here."""
        if self._running is not None:
            self._error = self._running.result()
            self._running = None

    def accept(self, clock: Callable[[], float]) -> None:
        """Put what was polled into the lanes. Raises what polling raised, once."""
        self.wait()
        found, self._found = self._found, []
        for inlet, polling in found:
            inlet.accept(polling, clock)
        error, self._error = self._error, None
        if error is not None:
            raise error

    def forget(self) -> None:
        """Drop what was polled: the sources are about to be told where to stand."""
        self.wait()
        self._found, self._error = [], None

    def close(self) -> None:
        """End the thread. Twice is fine."""
        self.forget()
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None
