"""A reliability plot: predicted against observed, by decile of the prediction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from monolith.training.evaluation import Bin


def draw(path: Path, title: str, bins: Mapping[str, Sequence[Bin]]) -> None:
    """Draw each task's bins into the file ``path``, a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(6, 6), constrained_layout=True)
    for task, parts in bins.items():
        axis.plot([part.predicted for part in parts], [part.observed for part in parts], "o-", label=task)
    most = max((max(part.predicted, part.observed) for parts in bins.values() for part in parts), default=1.0)
    axis.plot([0, most], [0, most], "--", color="grey", linewidth=1, label="calibrated")
    axis.set(title=title, xlabel="predicted, mean of a decile", ylabel="observed, mean of a decile")
    axis.legend()
    axis.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
