"""What an online-against-batch comparison says, as lines of text, as JSON and as a picture."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from monolith.datasets.online import WAYS, Comparison, Floats

BEST = "best"  # the true probabilities of a generated stream, as one more way
WINDOWS = 20  # over the judged samples


def with_best(comparison: Comparison, probabilities: Floats) -> Comparison:
    """The comparison with the true probabilities (n,) as one more way."""
    return replace(comparison, scores=comparison.scores | {BEST: probabilities})


def table(comparison: Comparison) -> list[str]:
    """One line a way, then the two honest gains."""
    meanings = {
        "frozen": f"{comparison.epochs} epochs on the first part, then no update",
        "frozen1": "one pass over it, then no update",
        "online1": "one pass, going on learning (the daemon)",
        "warm": "frozen, then going on learning",
        BEST: "the true probabilities: no model can be expected to do better",
    }
    lines = [f"{'':10}{'AUC':>7}{'GAUC':>9}"]
    for way in comparison.scores:
        lines.append(f"{way:10}{comparison.auc(way):7.4f}{comparison.gauc(way):9.4f}   {meanings[way]}")
    return [*lines, *(f"{name:19}{area:+.4f} AUC {within:+.4f} GAUC" for name, area, within in gains(comparison))]


def gains(comparison: Comparison) -> list[tuple[str, float, float]]:
    """What going on learning is worth, in AUC and in GAUC: against the same model that stopped."""
    return [
        (
            f"{online} - {stopped}",
            comparison.auc(online) - comparison.auc(stopped),
            comparison.gauc(online) - comparison.gauc(stopped),
        )
        for online, stopped in (("online1", "frozen1"), ("warm", "frozen"))
    ]


def as_dict(comparison: Comparison) -> dict[str, Any]:
    """Plain values for a JSON file."""
    return {
        "samples": len(comparison.labels),
        "positives": int(comparison.labels.sum()),
        "epochs": comparison.epochs,
        "ways": {w: {"auc": comparison.auc(w), "gauc": comparison.gauc(w)} for w in comparison.scores},
        "gains": {name: {"auc": area, "gauc": within} for name, area, within in gains(comparison)},
    }


def plot(comparison: Comparison, path: Path, title: str) -> None:
    """A PNG of the AUC in windows over the judged part, online against frozen."""
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
    from matplotlib.figure import Figure

    size = max(1, len(comparison.labels) // WINDOWS)
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for way, style in zip((*WAYS, BEST), ("C0--", "C1--", "C1-", "C0-", "k:"), strict=True):
        if way in comparison.scores:
            times, areas = comparison.windows(way, size)
            dates = times.astype("datetime64[ms]")
            axes.plot(dates, areas, style, label=f"{way} (AUC {comparison.auc(way):.4f})")
    locator = AutoDateLocator()
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    axes.set(title=title, xlabel="event time", ylabel=f"AUC in windows of {size:,} samples")
    axes.grid(alpha=0.3)
    axes.legend(loc="best", ncols=2, fontsize="small")
    figure.savefig(path, dpi=120)
