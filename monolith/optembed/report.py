"""What came of the stages, for people: a table, and a picture of the search."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from monolith.optembed.outcome import Outcome
from monolith.optembed.search import Scored


def lines(outcome: Outcome) -> Iterator[str]:
    """Before and after, by table and in all."""
    for table in outcome.tables:
        yield (
            f"table {table.name}: {table.rows:,} of {table.full_rows:,} rows, {table.width} of {table.dim} columns, "
            f"{table.bytes:,} bytes; threshold {table.threshold:.4g}, {table.small:,} rows are not above it"
        )
    saved = 1 - outcome.bytes / outcome.full_bytes
    yield f"{outcome.bytes:,} bytes, {saved:.1%} less than with all rows and columns, {outcome.full_bytes:,}"
    yield (
        f"{outcome.metric} of the validation part: supernet {outcome.full_score:.4f}, with what was found "
        f"{outcome.found_score:.4f}, retrained {outcome.score:.4f}"
    )


def draw(path: Path, log: Sequence[Scored], metric: str, title: str) -> None:
    """Scores in the order of the search and by bytes, and the widths of the candidates, best last."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(15, 4.5), constrained_layout=True)
    scores = [one.score for one in log]
    axes[0].scatter(range(len(log)), scores, c=[one.generation for one in log], s=12)
    _named(axes[0], "in order of the search, by generation", "candidate", metric)
    axes[1].scatter([one.bytes for one in log], scores, c=[one.generation for one in log], s=12)
    _named(axes[1], "by size", "bytes", metric)
    for name in log[0].widths:
        axes[2].scatter([one.widths[name] for one in log], scores, s=12, label=name, alpha=0.6)
    _named(axes[2], "by width", "columns", metric)
    axes[2].legend(fontsize="small")
    figure.suptitle(title)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _named(axis: Any, title: str, x: str, y: str) -> None:
    axis.set_title(title)
    axis.set_xlabel(x)
    axis.set_ylabel(y)
    axis.grid(alpha=0.3)
