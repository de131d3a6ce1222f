"""What runs of the comparison online against batch say: a table, the claims that hold or do not, JSON, a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from monolith.datasets.judging import MEASURES, SHARDS
from monolith.datasets.online import WAYS
from monolith.datasets.online_claims import (
    Spread,
    Verdict,
    difference,
    intervals_of,
    online_above_batch,
    shorter_is_no_worse,
    spread,
    why,
)
from monolith.datasets.online_report import BEST
from monolith.datasets.online_runs import Run

TITLES = {"auc": "AUC", "gauc": "GAUC", "lists": "in lists", "ranking": "apart"}


def measured(runs: Sequence[Run]) -> list[str]:
    """The measures that all runs have."""
    return [measure for measure in MEASURES if spread(runs, "online1", measure) is not None]


def table(runs: Sequence[Run]) -> list[str]:
    """One line a way and interval, each with mean and standard deviation over seeds."""
    measures = measured(runs)
    online, warm = (_by_interval(runs, way) for way in ("online1", "warm"))
    best = [(BEST, "the true probabilities: no model can be expected to do better")] if BEST in runs[0].scores else []
    epochs = sorted({run.epochs for run in runs})
    said = f"{epochs[0]}" if len(epochs) == 1 else f"{epochs[0]} to {epochs[-1]}"
    rows = [
        ("frozen", f"{said} epochs on the first part, then no update"),
        *warm,
        ("frozen1", "one pass over it, then no update"),
        *online,
        *best,
    ]
    head = f"{'':15}" + "".join(f"{TITLES[measure]:17}" for measure in measures)
    return [head.rstrip(), *(_row(runs, name, text, measures) for name, text in rows)]


def _by_interval(runs: Sequence[Run], way: str) -> list[tuple[str, str]]:
    rows = []
    for name in intervals_of(runs, way):
        parts = int(name.partition("1/")[2] or runs[0].steps)
        every = f"every {runs[0].samples / parts:,.0f} samples" if name != way else "every training step"
        rows.append((name, f"synchronised {every}, {_time(runs[0].hours / parts)} of event time"))
    return rows


def _time(hours: float) -> str:
    """A length of time in the unit that suits it."""
    for unit, length in (("days", 24.0), ("h", 1.0), ("min", 1 / 60)):
        if hours >= 2 * length:
            return f"{hours / length:.1f} {unit}"
    return f"{hours * 3600:.2g} s"


def _row(runs: Sequence[Run], way: str, text: str, measures: Sequence[str]) -> str:
    return f"{way:15}" + "".join(f"{spread(runs, way, measure)!s:17}" for measure in measures) + text


def claims(runs: Sequence[Run]) -> list[str]:
    """What is said of going on and of synchronising more often: that it holds, or that it does not, and why."""
    lines = [
        f"differences: mean ± standard deviation over seeds (by shard: mean of {SHARDS} ± half its 95 % interval)",
        "online above batch:",
    ]
    for measure in measured(runs):
        for name, gain in online_above_batch(runs, measure):
            lines.append(f"  {TITLES[measure]:9}{_said(gain.verdict):15}{name} {gain}: {why(gain.verdict)}")
    lines.append("shorter intervals no worse than longer ones:")
    for measure in measured(runs):
        for way in ("online1", "warm"):
            found = shorter_is_no_worse(runs, way, measure)
            if found is not None:
                lines.append(f"  {TITLES[measure]:9}{_said(found[0]):15}{found[1]}")
    return lines


def _said(verdict: Verdict) -> str:
    """What is said of a claim that a way is higher."""
    return {"higher": "holds", "too few seeds": "not claimed"}.get(verdict, "does not hold")


def as_dict(runs: Sequence[Run]) -> dict[str, Any]:
    """Plain values for a JSON file: means and standard deviations over seeds, differences, verdicts."""
    common = [way for way in runs[0].scores if all(way in run.scores for run in runs)]
    gains: dict[str, dict[str, Any]] = {}
    for measure in measured(runs):
        for name, gain in online_above_batch(runs, measure):
            mean, sd = Spread.of(gain.by_seed)
            gains.setdefault(name, {})[measure] = {"mean": mean, "sd": sd, "verdict": gain.verdict}
    return {
        "data": runs[0].data,
        "settings": runs[0].settings,
        "seeds": [run.seed for run in runs],
        "samples": runs[0].samples,
        "positives": runs[0].positives,
        "epochs": [run.epochs for run in runs],
        "steps": runs[0].steps,
        "hours": runs[0].hours,
        "ways": {way: {measure: _plain(spread(runs, way, measure)) for measure in MEASURES} for way in common},
        "gains": gains,
        "claims": claims(runs),
    }


def _plain(value: Spread | None) -> dict[str, float | None] | None:
    return None if value is None else {"mean": value.mean, "sd": value.sd}


def plot(runs: Sequence[Run], path: Path, title: str) -> None:
    """A PNG: the AUC along the judged part, and what going on is worth by the number of synchronisations."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4.8), layout="constrained")
    curves, gains = figure.subplots(1, 2)
    for way, style in zip((*WAYS, BEST), ("C0--", "C1--", "C1-", "C0-", "k:"), strict=True):
        if way in runs[0].scores:
            _curve(curves, runs, way, style)
    curves.set(xlabel=f"judged samples, in {SHARDS} shards", ylabel="AUC of a shard, mean and range over seeds")
    for measure, colour in zip(measured(runs), ("C2", "C3", "C4", "C5"), strict=False):
        _gains(gains, runs, measure, colour)
    gains.axhline(0, color="k", linewidth=0.8)
    gains.set(xlabel="synchronisations in the judged part", ylabel="online1 - frozen1, mean and sd over seeds")
    gains.set_xscale("log")
    for axes in (curves, gains):
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    figure.suptitle(title)
    figure.savefig(path, dpi=120)


def _curve(axes: Any, runs: Sequence[Run], way: str, style: str) -> None:
    values = np.array([run.scores[way].shards["auc"] for run in runs], np.float64)  # None becomes NaN
    shards = np.arange(1, SHARDS + 1)
    axes.plot(shards, values.mean(0), style, label=f"{way} ({spread(runs, way, 'auc')})")
    axes.fill_between(shards, values.min(0), values.max(0), color=style[:2].rstrip("-:"), alpha=0.15)


def _gains(axes: Any, runs: Sequence[Run], measure: str, colour: str) -> None:
    names = intervals_of(runs, "online1")
    counts = [int(name.partition("1/")[2] or runs[0].steps) for name in names]
    found = [difference(runs, name, "frozen1", measure) for name in names]
    spreads = [Spread.of(one.by_seed) for one in found if one is not None]
    if len(spreads) == len(counts):
        means, bars = [one.mean for one in spreads], [one.sd or 0.0 for one in spreads]
        axes.errorbar(counts, means, bars, color=colour, marker="o", capsize=3, label=TITLES[measure])
