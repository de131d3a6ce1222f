"""What a comparison of collisionless and hashed tables says: rates of collision, a table, claims, JSON, a picture."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monolith.datasets.collisions import OWN_ROWS, Areas, Run
from monolith.datasets.online_claims import Difference, Spread, why

Runs = Mapping[str, Sequence[Run]]  # by variant, in the order of seeds; the first is `OWN_ROWS`
STREAM = "stream"


def moments(runs: Runs) -> dict[str, str]:
    """When variants are compared: key and title."""
    first = runs[OWN_ROWS][0]
    found = {"first": "epoch 1", "best": "best epoch"} if len(first.epochs) > 1 else {"first": "epoch 1"}
    return found if first.stream is None else found | {STREAM: "stream"}


def areas(run: Run, moment: str) -> Areas:
    """The AUC at a moment. The best epoch is the judged samples' own: what the variant can come to, of each alike."""
    if moment == STREAM:
        assert run.stream is not None
        return run.stream
    return run.epochs[0] if moment == "first" else max(run.epochs, key=lambda one: one.whole or 0.0)


def spread(runs: Sequence[Run], moment: str) -> Spread | None:
    """Over seeds; None where there is no AUC."""
    values = [area for area in (areas(run, moment).whole for run in runs) if area is not None]
    return Spread.of(values) if len(values) == len(runs) else None


def gap(runs: Runs, variant: str, moment: str) -> Difference:
    """Collisionless less ``variant``, by seed and by shard."""
    pairs = [(areas(a, moment), areas(b, moment)) for a, b in zip(runs[OWN_ROWS], runs[variant], strict=True)]
    by_seed = [a.whole - b.whole for a, b in pairs if a.whole is not None and b.whole is not None]
    columns = zip(*(zip(a.shards, b.shards, strict=True) for a, b in pairs), strict=True)
    gaps = ([a - b for a, b in column if a is not None and b is not None] for column in columns)
    return Difference(by_seed, [statistics.fmean(column) for column in gaps if column])


def rates(runs: Runs) -> list[str]:
    """One line a variant and table: how many ids lose their row."""
    lines = []
    for variant, of_seed in runs.items():
        for name, size in of_seed[0].tables.items():
            if size.rows is not None:
                lines.append(
                    f"{variant}: table {name}: {size.ids:,} ids in {size.rows:,} rows, lost {size.lost:.2%} "
                    f"(expected {size.expected:.2%})"
                )
    return lines


def table(runs: Runs) -> list[str]:
    """One line a variant: AUC with its spread, at each moment, and bytes."""
    titles = moments(runs)
    lines = [f"{'':26}{'bytes':>12}  " + "".join(f"{title:17}" for title in titles.values()).rstrip()]
    for variant, of_seed in runs.items():
        cells = "".join(f"{spread(of_seed, moment)!s:17}" for moment in titles)
        lines.append(f"{variant:26}{of_seed[0].num_bytes:12,}  {cells}".rstrip())
    return lines


def claims(runs: Runs) -> list[str]:
    """Whether collisionless is above each size, at each moment."""
    lines = ["collisionless above (mean ± sd over seeds; by shard: mean ± half its 95 % interval):"]
    said = {"higher": "holds", "too few seeds": "not claimed"}
    for moment, title in moments(runs).items():
        for variant in runs:
            if variant != OWN_ROWS:
                found = gap(runs, variant, moment)
                word = said.get(found.verdict, "does not hold")
                lines.append(f"  {title:11}{variant:26}{word:15}{found}: {why(found.verdict)}")
    return lines


def as_dict(runs: Runs) -> dict[str, Any]:
    """Plain values for a JSON file."""
    return {
        "data": runs[OWN_ROWS][0].data,
        "seeds": [run.seed for run in runs[OWN_ROWS]],
        "samples": runs[OWN_ROWS][0].samples,
        "variants": {variant: _variant(runs, variant) for variant in runs},
        "claims": claims(runs),
    }


def _variant(runs: Runs, variant: str) -> dict[str, Any]:
    of_seed = runs[variant]
    return {
        "bytes": of_seed[0].num_bytes,
        "tables": {
            name: {"ids": size.ids, "rows": size.rows, "lost": size.lost, "expected": size.expected}
            for name, size in of_seed[0].tables.items()
        },
        "auc": {m: None if (s := spread(of_seed, m)) is None else {"mean": s.mean, "sd": s.sd} for m in moments(runs)},
        "verdicts": {m: gap(runs, variant, m).verdict for m in moments(runs)} if variant != OWN_ROWS else {},
    }


def plot(runs: Runs, path: Path, title: str) -> None:
    """A PNG: AUC by epoch, and along the stream where that was measured, with the range over seeds."""
    from matplotlib.figure import Figure

    has_stream = runs[OWN_ROWS][0].stream is not None
    figure = Figure(figsize=(13 if has_stream else 7, 4.8), layout="constrained")
    panels = figure.subplots(1, 2 if has_stream else 1, squeeze=False)[0]
    for number, (variant, of_seed) in enumerate(runs.items()):
        colour = f"C{number}"
        _band(panels[0], [[area.whole for area in run.epochs] for run in of_seed], colour, variant)
        if has_stream:
            _band(panels[1], [areas(run, STREAM).shards for run in of_seed], colour, variant)
    panels[0].set(xlabel="epochs", ylabel="AUC of the judged samples")
    if has_stream:
        panels[1].set(xlabel="judged samples, in shards", ylabel="AUC of a shard, scored before it was learnt")
    for axes in panels:
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    figure.suptitle(title)
    figure.savefig(path, dpi=120)


def _band(axes: Any, lines: Sequence[Sequence[float | None]], colour: str, label: str) -> None:
    import numpy as np

    values = np.array(lines, np.float64)  # None becomes NaN
    places = np.arange(1, values.shape[1] + 1)
    axes.plot(places, values.mean(0), color=colour, label=label)
    axes.fill_between(places, values.min(0), values.max(0), color=colour, alpha=0.15)
