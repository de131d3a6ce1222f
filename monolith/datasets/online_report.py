"""What an online-against-batch comparison says, as lines of text, as JSON and as a picture."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from monolith.datasets.online import WAYS, Comparison
from monolith.datasets.served import Floats, Ints
from monolith.tables.batch import NO_GROUP
from monolith.training.ranking import gauc

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
    has_gauc = comparison.gauc("online1") is not None
    lines = [f"{'':10}{'AUC':>7}" + (f"{'GAUC':>9}" if has_gauc else "")]
    for way in comparison.scores:
        within = comparison.gauc(way)
        column = "" if within is None else f"{within:9.4f}"
        lines.append(f"{way:10}{comparison.auc(way):7.4f}{column}   {meanings[way]}")
    return [*lines, *(_gain_line(*gain) for gain in gains(comparison))]


def _gain_line(name: str, area: float, within: float | None) -> str:
    return f"{name:19}{area:+.4f} AUC" + ("" if within is None else f" {within:+.4f} GAUC")


def gains(comparison: Comparison) -> list[tuple[str, float, float | None]]:
    """What going on learning is worth, in AUC and in GAUC: against the same model that stopped. None: no GAUC."""
    return [
        (
            f"{online} - {stopped}",
            comparison.auc(online) - comparison.auc(stopped),
            _within(comparison, online, stopped),
        )
        for online, stopped in (("online1", "frozen1"), ("warm", "frozen"))
    ]


def _within(comparison: Comparison, online: str, stopped: str) -> float | None:
    first, second = comparison.gauc(online), comparison.gauc(stopped)
    return None if first is None or second is None else first - second


def about_gauc(labels: Floats, users: Ints, group_by: str, *, is_read: bool) -> str | None:
    """Why GAUC is missing, or of how many samples it is; None where all have a user. Labels and users are (n,)."""
    count, known = len(labels), users != NO_GROUP
    if not is_read:
        return f"no GAUC: no table reads the feature {group_by!r}; train.group_by names another one"
    if not known.any():
        return f"no GAUC: no judged sample has the feature {group_by!r}; train.group_by names another one"
    if not gauc(users[known], labels[known], labels[known])[1]:
        return f"no GAUC: no {group_by!r} has judged samples of both kinds"
    return (
        f"GAUC is of the {known.sum():,} samples of {count:,} that have one {group_by!r}" if not known.all() else None
    )


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
