"""``monolith plot STATE``: the learning curves of a run as a PNG."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monolith.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from monolith.training.curves import Point


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser("plot", help="draw the learning curves of a run, kept in its state folder")
    parser.add_argument("state", type=Path, help="the job's state folder")
    parser.add_argument("--out", type=Path, metavar="FILE.png", help="where to (default: STATE/curves.png)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Draw what `curves.jsonl` holds; print where it is."""
    from monolith.training.curves import NAME, read_curves

    points = read_curves(args.state / NAME)
    if not points:
        raise ConfigError(
            f"{args.state / NAME} holds no point: is {args.state} the state folder of a run that trained?"
        )
    out = args.out or args.state / "curves.png"
    draw(points, out, f"{args.state}: {points[-1].samples:,} samples")
    print(f"{out}: {len(points):,} points, {points[-1].samples:,} samples")
    return 0


def draw(points: Sequence[Point], out: Path, title: str) -> None:
    """Six panels by samples trained: two scores of every task, rate, lag, rows and what was left out."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(3, 2, figsize=(12, 11), constrained_layout=True)
    samples = [point.samples for point in points]
    for axis, metrics in zip(axes[0], (("auc", "rmse"), ("logloss", "mae")), strict=True):
        _scores(axis, points, samples, metrics)
    _line(axes[1][0], "samples a second", samples, {"samples/s": [point.samples_per_s for point in points]})
    _line(axes[1][1], "lag, records", samples, {"lag": [point.lag for point in points]})
    tables = {name: [p.tables[name].rows if name in p.tables else None for p in points] for name in points[-1].tables}
    _line(axes[2][0], "rows", samples, tables)
    left = sorted({what for point in points for what in point.left_out})
    _line(axes[2][1], "left out", samples, {what: [p.left_out.get(what, 0) for p in points] for what in left})
    figure.suptitle(title)
    figure.savefig(out, dpi=110)
    pyplot.close(figure)


def _scores(axis: Any, points: Sequence[Point], samples: list[int], metrics: Sequence[str]) -> None:
    lines = {}
    for task in points[-1].scores:
        for metric in metrics:
            for span in ("window", "total"):
                values = [p.scores.get(task, {}).get(span, {}).get(metric) for p in points]
                if any(value is not None for value in values):
                    lines[f"{task} {metric}, {span}"] = values
    _line(axis, " and ".join(metrics), samples, lines)


def _line(axis: Any, title: str, samples: list[int], lines: dict[str, list[Any]]) -> None:
    for name, values in lines.items():
        axis.plot(samples, [float("nan") if value is None else value for value in values], label=name, linewidth=1.2)
    axis.set_title(title)
    axis.set_xlabel("samples")
    axis.grid(alpha=0.3)
    if lines:
        axis.legend(fontsize="small")
