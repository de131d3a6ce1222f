"""A job on this machine alone: its logs, state and store in one folder, filled from a named stream."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing
from importlib.util import find_spec
from itertools import dropwhile, takewhile
from pathlib import Path
from typing import TYPE_CHECKING

from monolith.errors import ConfigError

if TYPE_CHECKING:
    from tqdm import tqdm

    from monolith.config import JobConfig
    from monolith.datasets.streams import NamedStream
    from monolith.events import Event

MARK = ".monolith-run"  # says that a folder was made here and may be emptied
PLAIN_EVERY_S = 5.0


def local_sets(folder: Path) -> list[str]:
    """The options that put a job's streams, state and store into ``folder``."""
    return [
        f"input.features=log://{folder / 'features'}",
        f"input.actions=log://{folder / 'actions'}",
        f"input.dead_letters=log://{folder / 'dead'}",
        f"state={folder / 'state'}",
        f"store=lmdb://{folder / 'store'}",
    ]


def fresh_folder(folder: Path) -> None:
    """``folder`` exists and is empty; raises `ConfigError` rather than empty one that was not made here."""
    if folder.exists() and any(folder.iterdir()) and not (folder / MARK).is_file():
        raise ConfigError(f"{folder} holds files that are not of an earlier run; name another folder by --dir")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / MARK).write_text("This folder is emptied by the next `monolith demo` or `monolith bench` on it.\n")


def write_stream(
    urls: tuple[str, str],
    events: Iterable[Event],
    total: int,
    *,
    label: str = "writing events",
    per_second: float | None = None,
    note: Callable[[], str] = str,
) -> int:
    """Append ``events`` (``total`` are expected) to the streams of features and of actions, and return their number.

    Progress is shown with what ``note`` says at the time.
    """
    from monolith.datasets.impressions import write_events
    from monolith.streaming.source import open_sink

    with ExitStack() as stack:
        features, actions = (stack.enter_context(closing(open_sink(url))) for url in urls)
        bar = stack.enter_context(Bar("event"))
        return write_events(
            events, features, actions, per_second=per_second, on_written=lambda done: bar(label, done, total, note())
        )


def urls_of(job: JobConfig) -> tuple[str, str]:
    """The job's streams of features and of actions; raises `ConfigError` where it reads joined samples instead."""
    if job.input.features is None or job.input.actions is None:
        raise ConfigError(f"job {job.name!r} reads joined samples; this command needs input.features and input.actions")
    return job.input.features, job.input.actions


def parts_of(stream: NamedStream, cut_ms: int) -> tuple[Iterator[Event], Iterator[Event]]:
    """The stream's events before ``cut_ms`` of event time, and those from then on, each by a run of its own."""
    from monolith.datasets.impressions import timeline

    def is_before(event: Event) -> bool:
        return event.event_time_ms < cut_ms

    return takewhile(is_before, timeline(stream.start())), dropwhile(is_before, timeline(stream.start()))


class Bar:
    """Progress of one piece of work after another: a bar on a terminal, elsewhere a line every few seconds."""

    def __init__(self, unit: str = "sample") -> None:
        self.unit = unit
        self._bar: tqdm[None] | None = None
        self._label = ""
        self._line = ""  # the newest, where it is not printed yet
        self._next_line = 0.0

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def __call__(self, label: str, done: int, total: int, note: str = "") -> None:
        """``done`` of ``total`` of ``label`` are done; another label begins another bar."""
        if label != self._label:
            self._end()
            self._label, self._next_line = label, time.monotonic() + PLAIN_EVERY_S
        if sys.stderr.isatty() and find_spec("tqdm") is not None:  # the small install has none
            self._show(done, total, note)
            return
        self._line = f"{label}: {done:,} of {total:,} {self.unit}s  {note}".rstrip()
        if time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + PLAIN_EVERY_S
            self._print()

    def _show(self, done: int, total: int, note: str) -> None:
        from tqdm import tqdm

        if self._bar is None:
            self._bar = tqdm(desc=self._label, total=total, unit=self.unit, file=sys.stderr, dynamic_ncols=True)
        self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(done - self._bar.n)

    def _print(self) -> None:
        if self._line:
            print(self._line, file=sys.stderr, flush=True)
        self._line = ""

    def _end(self) -> None:
        self._print()
        if self._bar is not None:
            self._bar.close()
            self._bar = None
