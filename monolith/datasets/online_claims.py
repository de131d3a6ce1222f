"""What runs of several seeds carry: means, spreads, paired differences, and which claims hold.

A difference is said to be there where two intervals of 95 % (Student's t) lie on one side of 0: that of its mean over
seeds, which says how much chance in training matters, and that of its mean over equal parts of the judged samples,
which says how much it matters which samples they are. Less than three seeds carry nothing.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

from monolith.datasets.online_runs import Run

LEAST_SEEDS = 3
# Two-sided 95 % quantiles of Student's t, by degrees of freedom from 1.
_T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120,
        2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042)  # fmt: skip

Verdict = Literal["higher", "lower", "open", "too few seeds"]


class Spread(NamedTuple):
    """A mean, and the standard deviation of what it is of (None: of one value)."""

    mean: float
    sd: float | None

    @staticmethod
    def of(values: Sequence[float]) -> Spread:
        """Of at least one value."""
        return Spread(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)

    def __str__(self) -> str:
        return f"{self.mean:.4f}" + ("" if self.sd is None else f" ± {self.sd:.4f}")

    def signed(self) -> str:
        """With the sign of the mean."""
        return f"{self.mean:+.4f}" + ("" if self.sd is None else f" ± {self.sd:.4f}")


class Difference(NamedTuple):
    """One way less another, by one measure."""

    by_seed: list[float]
    by_shard: list[float]  # means over seeds

    @property
    def verdict(self) -> Verdict:
        """Whether the difference is there, and on which side."""
        if len(self.by_seed) < LEAST_SEEDS:
            return "too few seeds"
        intervals = [_interval(values) for values in (self.by_seed, self.by_shard)]
        if all(low > 0 for low, _ in intervals):
            return "higher"
        return "lower" if all(high < 0 for _, high in intervals) else "open"

    def __str__(self) -> str:
        if len(self.by_shard) < 2:
            return Spread.of(self.by_seed).signed()
        shards = f"{statistics.fmean(self.by_shard):+.4f} ± {half_width(self.by_shard):.4f}"
        return f"{Spread.of(self.by_seed).signed()} (by shard {shards})"


def half_width(values: Sequence[float]) -> float:
    """Half of the interval in which the mean of such values lies 95 times in 100; infinite of less than two."""
    if len(values) < 2:
        return math.inf
    t = _T95[len(values) - 2] if len(values) - 2 < len(_T95) else 1.96
    return t * statistics.stdev(values) / math.sqrt(len(values))


def _interval(values: Sequence[float]) -> tuple[float, float]:
    if not values:
        return -math.inf, math.inf
    mean, half = statistics.fmean(values), half_width(values)
    return mean - half, mean + half


def spread(runs: Sequence[Run], way: str, measure: str) -> Spread | None:
    """Over seeds; None where some run does not have it."""
    values = [run.scores[way].whole[measure] if way in run.scores else None for run in runs]
    known = [value for value in values if value is not None]
    return Spread.of(known) if known and len(known) == len(values) else None


def difference(runs: Sequence[Run], way: str, other: str, measure: str) -> Difference | None:
    """``way`` less ``other``; None where some run lacks one of the values."""
    if spread(runs, way, measure) is None or spread(runs, other, measure) is None:
        return None
    by_seed = [_minus(run.scores[way].whole[measure], run.scores[other].whole[measure]) for run in runs]
    columns = zip(*(_shards(run, way, other, measure) for run in runs), strict=True)
    by_shard = [statistics.fmean(column) for column in ([v for v in c if v is not None] for c in columns) if column]
    return Difference([value for value in by_seed if value is not None], by_shard)


def _shards(run: Run, way: str, other: str, measure: str) -> list[float | None]:
    pairs = zip(run.scores[way].shards[measure], run.scores[other].shards[measure], strict=True)
    return [_minus(one, two) for one, two in pairs]


def _minus(one: float | None, two: float | None) -> float | None:
    return None if one is None or two is None else one - two


def online_above_batch(runs: Sequence[Run], measure: str) -> list[tuple[str, Difference]]:
    """What going on is worth: against the same model that stopped."""
    pairs = (("online1", "frozen1"), ("warm", "frozen"))
    found = [(f"{way} - {other}", difference(runs, way, other, measure)) for way, other in pairs]
    return [(name, one) for name, one in found if one is not None]


def intervals_of(runs: Sequence[Run], way: str) -> list[str]:
    """The names of a way at every interval that all runs have, from the longest to every step."""
    common = set.intersection(*(set(run.scores) for run in runs))
    parts = sorted(int(name.partition("1/")[2]) for name in common if name.startswith(f"{way} 1/"))
    return [*(f"{way} 1/{count}" for count in parts), way]


def shorter_is_no_worse(runs: Sequence[Run], way: str, measure: str) -> tuple[Verdict, str] | None:
    """Whether shorter intervals of ``way`` are at least as good ("higher": yes), and why; None: not measured.

    They are where the shortest is higher than the longest and no interval is lower than the next longer one.
    """
    names = intervals_of(runs, way)
    ends = difference(runs, names[-1], names[0], measure)
    if len(names) < 2 or ends is None:
        return None
    pairs = [(one, two, difference(runs, two, one, measure)) for one, two in pairwise(names)]
    worse = [f"{two} is below {one} by {gap}" for one, two, gap in pairs if gap is not None and gap.verdict == "lower"]
    said = f"{names[-1]} - {names[0]} {ends}: {why(ends.verdict)}"
    return ("lower" if worse and ends.verdict == "higher" else ends.verdict), "; ".join([said, *worse])


_WHY = {
    "higher": "seeds and shards carry it",
    "lower": "it is the other way round, and seeds and shards carry that",
    "open": "seeds or shards do not carry it",
    "too few seeds": f"{LEAST_SEEDS} seeds at least carry a claim",
}


def why(verdict: Verdict) -> str:
    """A verdict in words."""
    return _WHY[verdict]
