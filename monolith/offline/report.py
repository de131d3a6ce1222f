"""What the results say: a Markdown table with mean and standard deviation over seeds, and a plot of AUC by bytes."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from monolith.offline.cells import OURS
from monolith.offline.results import Row


class Line(NamedTuple):
    """The cells that differ by their seed alone."""

    data: str
    model: str
    kind: str
    budget: int | None
    trainer: str
    rows: list[Row]

    @property
    def name(self) -> str:
        """The kind, as a legend has it."""
        return self.kind if self.trainer == OURS else self.trainer

    def values(self, column: str) -> list[float]:
        """Of each seed; those that do not exist are left out."""
        found = [row[column] for row in self.rows]
        return [value for value in found if value is not None and math.isfinite(value)]

    def mean(self, column: str) -> float:
        """Over seeds; NaN where there is none."""
        return statistics.fmean(self.values(column)) if self.values(column) else math.nan


def lines_of(rows: Iterable[Row]) -> list[Line]:
    """One line for each combination; by data, model, trainer and bytes. Rows of other settings stay apart by job."""
    found: dict[tuple[Any, ...], Line] = {}
    for row in rows:
        names = (row["data"], row["model"], row["kind"], row["budget"], row["trainer"])
        line = found.setdefault((*names, _without_seeds(row)), Line(*names, rows=[]))
        line.rows.append(row)
    return sorted(found.values(), key=lambda line: (line.data, line.model, line.trainer != OURS, line.mean("bytes")))


def _without_seeds(row: Row) -> str:
    """The job but for its seeds."""
    return re.sub(r'"seed": ?\d+', "", row["job"])


def table(lines: Sequence[Line]) -> list[str]:
    """Markdown."""
    head = "data | model | kind | bytes | test AUC | GAUC | log-loss | calibration | samples/s | seeds"
    return [
        f"| {head} |",
        "|---|---|---|--:|--:|--:|--:|--:|--:|--:|",
        *(
            f"| {line.data} | {line.model} | {line.name} | {line.mean('bytes'):,.0f} | {_score(line, 'auc')} | "
            f"{_score(line, 'gauc')} | {_score(line, 'logloss')} | {_score(line, 'calibration', 3)} | "
            f"{line.mean('samples_s'):,.0f} | {len(line.rows)} |"
            for line in lines
        ),
    ]


def _score(line: Line, column: str, digits: int = 4) -> str:
    values = line.values(column)
    if not values:
        return "-"
    mean = f"{statistics.fmean(values):.{digits}f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


def plot(lines: Sequence[Line], path: Path) -> None:
    """AUC against bytes, a panel for each data set; lines join the sizes of one kind, bars are standard deviations.

    The same bytes for the same figures, be it SVG or PNG.
    """
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "results"
    from matplotlib import pyplot

    sets = sorted({line.data for line in lines})
    figure, axes = pyplot.subplots(1, len(sets), figsize=(6.5 * len(sets), 4.5), squeeze=False, layout="constrained")
    for axis, data in zip(axes[0], sets, strict=True):
        here = [line for line in lines if line.data == data]
        for model, name in dict.fromkeys((line.model, line.name) for line in here):
            same = sorted(
                (line for line in here if (line.model, line.name) == (model, name)), key=lambda line: line.mean("bytes")
            )
            spread = [statistics.stdev(v) if len(v := line.values("auc")) > 1 else 0.0 for line in same]
            sizes, areas = [line.mean("bytes") for line in same], [line.mean("auc") for line in same]
            axis.errorbar(sizes, areas, spread, marker="o", capsize=3, label=f"{model}, {name}")
        axis.set(xscale="log", xlabel="bytes of all tables, index included", ylabel="test AUC", title=data)
        axis.grid(alpha=0.3)
        axis.legend(fontsize="small")
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    pyplot.close(figure)
