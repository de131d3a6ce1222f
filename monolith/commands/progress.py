"""The progress line of a running trainer: a bar on a terminal, a plain line every few seconds elsewhere."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import Any, TextIO

from tqdm import tqdm

from monolith.training.status import Status

PLAIN_EVERY_S = 5.0


class Progress:
    """Shows each `Status` it is called with."""

    def __init__(self, stream: TextIO, *, enabled: bool = True) -> None:
        self.stream, self.enabled = stream, enabled
        self._bar: tqdm[None] | None = None
        self._next_plain = 0.0

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, status: Status) -> None:
        """Show it."""
        if not self.enabled:
            return
        if self.stream.isatty():
            self._show_bar(status)
        elif status.ended or time.monotonic() >= self._next_plain:
            self._next_plain = time.monotonic() + PLAIN_EVERY_S
            print(f"step {status.step}  {status.samples:,} samples  {_tail(status)}", file=self.stream, flush=True)

    def _show_bar(self, status: Status) -> None:
        if self._bar is None:
            self._bar = tqdm(file=self.stream, unit="sample", dynamic_ncols=True, initial=status.samples)
        self._bar.total = status.samples + status.lag  # records left to read are the best guess of samples to come
        self._bar.n = status.samples
        self._bar.set_postfix_str(_tail(status))


def _tail(status: Status) -> str:
    rows = sum(int(table["rows"]) for table in status.tables.values())
    shown = "".join(_metrics(status.metrics))
    return f"{status.samples_per_s:,.0f}/s  lag {status.lag:,}{shown}  rows {rows:,}  delta {status.sequence}"


def _metrics(metrics: dict[str, Any]) -> Iterator[str]:
    """The one number of each task that says most, over the newest full window, or since the start before the first."""
    for task, report in metrics.get("tasks", {"": metrics}).items():
        scores = report.get("window") or report.get("total") or {}
        for key, name in (("auc", "AUC"), ("rmse", "RMSE")):
            if math.isfinite(scores.get(key, math.nan)):
                yield f"  {task} {name} {scores[key]:.4f}" if task else f"  {name} {scores[key]:.4f}"
