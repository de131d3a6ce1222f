"""What a sweep says: one row for each combination of settings, best first, as text, as JSON and as a picture."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from monolith.sweep.trials import Outcome

LOG_FROM = 30  # largest value by smallest, above which an axis is logarithmic
BESIDE = ("auc", "gauc", "logloss", "rmse", "mae")  # further scores of the first task, in the table


class Row(NamedTuple):
    """The trials of one combination of settings."""

    settings: list[str]
    outcomes: list[Outcome]  # with a score: all seeds that ran to their end, or else those that were stopped
    failed: list[Outcome]
    pending: int  # seeds that were not run: halving stopped the first one, or the sweep itself was stopped

    @property
    def is_whole(self) -> bool:
        """Whether at least one seed ran to its end."""
        return any(outcome.status == "done" for outcome in self.outcomes)

    def values(self) -> list[float]:
        """The score of each seed."""
        return [outcome.score for outcome in self.outcomes if outcome.score is not None]

    @property
    def mean(self) -> float:
        """Of the score over seeds; NaN where there is none."""
        return statistics.fmean(self.values()) if self.values() else math.nan

    @property
    def sd(self) -> float | None:
        """The standard deviation over seeds; None of fewer than two."""
        return statistics.stdev(self.values()) if len(self.values()) > 1 else None

    def mean_of(self, metric: str) -> float | None:
        """The mean over seeds of another score of the first task; None where it does not exist."""
        found = [next(iter(outcome.scores.values())).get(metric) for outcome in self.outcomes if outcome.scores]
        numbers = [value for value in found if value is not None]
        return statistics.fmean(numbers) if numbers and len(numbers) == len(found) else None

    @property
    def best(self) -> Outcome:
        """The outcome of the first seed."""
        return self.outcomes[0]


def rows_of(trials: Sequence[Sequence[str]], known: dict[str, Outcome], *, lower_is_better: bool) -> list[Row]:
    """Best first: combinations that ran to their end, then those that were stopped, then those without a score.

    ``trials`` are the names of the trials of each combination, in the order of seeds.
    """
    rows = [_row([known[name] for name in names if name in known], len(names)) for names in trials]
    return sorted((row for row in rows if row is not None), key=lambda row: _rank(row, lower_is_better))


def _row(outcomes: list[Outcome], count: int) -> Row | None:
    if not outcomes:
        return None
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    done = [outcome for outcome in outcomes if outcome.status == "done"]
    scored = done or [outcome for outcome in outcomes if outcome.status == "stopped"]
    return Row(outcomes[0].settings, scored, failed, count - len(outcomes))


def _rank(row: Row, lower_is_better: bool) -> tuple[bool, bool, float]:
    mean = row.mean
    return not row.is_whole, math.isnan(mean), mean if lower_is_better else -mean


def table(rows: Sequence[Row], metric: str) -> Iterator[str]:
    """The rows as lines, under a header."""
    beside = [name for name in BESIDE if name != metric and any(row.mean_of(name) is not None for row in rows)]
    yield "".join(f"{name:>10}" for name in (metric, "sd", *beside, "seeds", "epochs", "seconds")) + "  settings"
    for row in rows:
        if row.outcomes:
            yield _line(row, beside)
    for row in rows:
        for outcome in row.failed:
            yield f"failed: {_words(row)}, seed {outcome.seed}: {outcome.error}"


def _line(row: Row, beside: Sequence[str]) -> str:
    numbers = [f"{row.mean:10.4f}", f"{row.sd:10.4f}" if row.sd is not None else f"{'-':>10}"]
    for name in beside:
        value = row.mean_of(name)
        numbers.append(f"{'-':>10}" if value is None else f"{value:10.4f}")
    epochs = statistics.fmean(len(outcome.epochs) for outcome in row.outcomes)
    seconds = statistics.fmean(outcome.seconds for outcome in row.outcomes)
    note = "" if row.is_whole else f"  (stopped after epoch {len(row.best.epochs)})"
    return "".join(numbers) + f"{len(row.outcomes):>10}{epochs:10.1f}{seconds:10.1f}  {_words(row)}{note}"


def _words(row: Row) -> str:
    return " ".join(row.settings) or "as in the job file"


def as_dict(rows: Sequence[Row], metric: str) -> dict[str, Any]:
    """Plain values for JSON."""
    return {
        "metric": metric,
        "rows": [
            {
                "settings": row.settings,
                "mean": row.mean if row.outcomes else None,
                "sd": row.sd,
                "status": "done" if row.is_whole else "stopped" if row.outcomes else "failed",
                "seeds": {str(outcome.seed): outcome.score for outcome in row.outcomes},
                "epochs": {str(outcome.seed): outcome.epochs for outcome in row.outcomes},
                "states": {str(outcome.seed): outcome.state for outcome in row.outcomes},
                "errors": {str(outcome.seed): outcome.error for outcome in row.failed},
            }
            for row in rows
        ],
    }


def draw(path: Path, rows: Sequence[Row], metric: str, title: str) -> None:
    """A PNG: the score by each setting that differs, a dot a trial, and the score by epoch."""
    from matplotlib.figure import Figure

    scored = [row for row in rows if row.outcomes]
    keys = list(dict.fromkeys(option.partition("=")[0] for row in scored for option in row.settings))
    columns = min(3, len(keys) + 1)
    lines = math.ceil((len(keys) + 1) / columns)
    figure = Figure(figsize=(4.5 * columns, 3.8 * lines), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    for axis, key in zip(axes, keys, strict=False):
        _scores(axis, scored, key, metric)
    _curves(axes[len(keys)], scored, metric)
    for axis in axes[len(keys) + 1 :]:
        axis.remove()
    figure.suptitle(title)
    figure.savefig(path, dpi=110)


def _scores(axis: Any, rows: Sequence[Row], key: str, metric: str) -> None:
    """Dots of one setting; numbers on a line, logarithmic where they span orders; other values in turn."""
    texts = [_value(row, key) for row in rows]
    numbers = [_number(text) for text in texts]
    if all(number is not None for number in numbers):
        places = [number for number in numbers if number is not None]
        if min(places) > 0 and max(places) / min(places) > LOG_FROM:
            axis.set_xscale("log")
    else:
        names = list(dict.fromkeys(texts))
        places = [float(names.index(text)) for text in texts]
        axis.set_xticks(range(len(names)), names, rotation=20, ha="right", fontsize="small")
    for number, (row, place) in enumerate(zip(rows, places, strict=True)):
        shape = "o" if row.is_whole else "x"
        axis.plot([place] * len(row.values()), row.values(), shape, color="C1" if number == 0 else "C0", alpha=0.7)
    axis.set(xlabel=key, ylabel=metric)
    axis.grid(alpha=0.3)


def _curves(axis: Any, rows: Sequence[Row], metric: str) -> None:
    for number, row in reversed(list(enumerate(rows))):  # the best one on top
        for outcome in row.outcomes:
            style = (
                {"color": "C1", "linewidth": 1.8} if number == 0 else {"color": "C0", "linewidth": 0.9, "alpha": 0.5}
            )
            axis.plot(range(1, len(outcome.epochs) + 1), outcome.epochs, marker=".", **style)
    axis.set(xlabel="epoch (orange: the best settings)", ylabel=metric)
    axis.grid(alpha=0.3)


def _value(row: Row, key: str) -> str:
    return next(option.partition("=")[2] for option in row.settings if option.partition("=")[0] == key)


def _number(text: str) -> float | None:
    try:
        value = yaml.safe_load(text)
        return None if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, yaml.YAMLError):
        return None
