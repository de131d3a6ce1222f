"""The progress line of a running trainer: a bar on a terminal, a plain line every few seconds elsewhere.

Before the first step there is a line at least every two seconds as well, which says what is being done.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, TextIO

from tqdm import tqdm

from monolith.streaming.progress import Progress as Streams
from monolith.training.status import Status

PLAIN_EVERY_S = 5.0
WAITING_EVERY_S = 2.0  # before the first step
SHOWN_REASONS = 3  # for which records were refused; the counts of the rarer ones are shown as one


class Starting:
    """Says every two seconds what a process is doing before it can say more. ``doing`` may be changed meanwhile."""

    def __init__(self, stream: TextIO, doing: str, *, enabled: bool = True) -> None:
        self.doing = doing
        self._stream, self._enabled = stream, enabled
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Starting:
        if self._enabled:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def end(self) -> None:
        """Be quiet from now on. Twice is fine."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        began = time.monotonic()
        while not self._over.wait(WAITING_EVERY_S - 0.5):  # its thread may be late
            print(f"starting: {self.doing} ({time.monotonic() - began:.0f} s)", file=self._stream, flush=True)


class Progress:
    """Shows each `Status` it is called with."""

    def __init__(self, stream: TextIO, *, enabled: bool = True) -> None:
        self.stream, self.enabled = stream, enabled
        self.last: Status | None = None
        self._bar: tqdm[None] | None = None
        self._next_plain = 0.0

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, status: Status) -> None:
        """Show it."""
        self.last = status
        if not self.enabled:
            return
        if self.stream.isatty():
            self._show_bar(status)
        elif status.ended or time.monotonic() >= self._next_plain:
            self._next_plain = time.monotonic() + (PLAIN_EVERY_S if status.step else WAITING_EVERY_S - 0.5)
            print(f"step {status.step}  {status.samples:,} samples  {_tail(status)}", file=self.stream, flush=True)

    def _show_bar(self, status: Status) -> None:
        if self._bar is None:
            self._bar = tqdm(file=self.stream, unit="sample", dynamic_ncols=True, initial=status.samples)
        self._bar.total = status.samples + (status.lag or 0)  # records left are the best guess of samples to come
        self._bar.n = status.samples
        self._bar.set_postfix_str(_tail(status))


def _tail(status: Status) -> str:
    rows = sum(int(table["rows"]) for table in status.tables.values())
    shown = "".join(f"  {text}" for text in scores(status.metrics))
    parts = [
        f"{status.samples_per_s:,.0f}/s  {lag(status.streams)}{shown}",
        f"rows {rows:,}",
        f"delta {status.sequence}",
    ]
    return "  ".join([*parts, *left_out(status.streams)])


def lag(streams: Streams) -> str:
    """Records to come, or the streams that do not answer."""
    if streams.missing:
        return "no answer from " + ", ".join(f"{name} ({why})" for name, why in streams.missing.items())
    return f"lag {streams.lag or 0:,}"


def waiting(streams: Streams) -> str:
    """What was read and waits for its label, or for the end of its window; empty where nothing does."""
    mebibytes = streams.waiting_bytes / 2**20
    return f"waiting for their labels: events of {mebibytes:,.1f} MiB, no samples yet" if mebibytes else ""


def left_out(streams: Streams) -> list[str]:
    """What was left out, in few words: counts of rejects, then of everything else that made no sample."""
    dropped = streams.dropped()
    rejects = {what.removeprefix("rejected "): n for what, n in dropped.items() if what.startswith("rejected ")}
    others = [f"{what} {count:,}" for what, count in dropped.items() if not what.startswith("rejected ")]
    if not rejects:
        return others
    common = sorted(rejects.items(), key=lambda reason: -reason[1])
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in common[:SHOWN_REASONS])
    if rest := sum(count for _, count in common[SHOWN_REASONS:]):
        reasons += f", other reasons {rest:,}"
    return [f"rejected {sum(rejects.values()):,} ({reasons})", *others]


def scores(metrics: Mapping[str, Any]) -> Iterator[str]:
    """The main scores of each task: over the newest full window, and since the start."""
    for task, report in metrics.get("tasks", {"": metrics}).items():
        total, window = report.get("total") or {}, report.get("window") or {}
        for key, name in (("auc", "AUC"), ("logloss", "logloss"), ("calibration", "calibration"), ("rmse", "RMSE")):
            numbers = [number for part in (window, total) if _is_number(number := part.get(key))]
            if numbers:
                yield f"{task} {name} {'/'.join(f'{number:.4f}' for number in numbers)}".strip()


def _is_number(value: float | None) -> bool:
    """JSON has null for NaN."""
    return value is not None and math.isfinite(value)
