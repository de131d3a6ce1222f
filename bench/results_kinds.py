"""Sections of docs/results.md that compare cells of the offline matrix: kinds of table at the same bytes, and rivals.

Hashed tables come in several divisions of the rows between features. Each kind is compared with two of them: rows in
proportion to numbers of values, which is the paper's baseline, and the division that the validation part says is best.
"""

from __future__ import annotations

import shlex
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from monolith.offline.cells import DEEPCTR, OURS
from monolith.offline.layout import HASHED, SEARCHED

Report = dict[str, Any]
GOAL = 0.03  # AUC that unified tables are claimed to have above hashed ones at the smallest number of bytes
LOSS = 0.001  # AUC that half of the bytes may cost
OWN = ("--set", "--dim", "--epochs", "--batch", "--patience")  # options that make a cell's settings its own
BY_VALUES = "hashed"
DIVISIONS = {"hashed": "by values", "hashed-sqrt": "by roots", "hashed-equal": "equal"}


class Place(NamedTuple):
    """What cells that are compared have in common, but for kind and seed."""

    data: str
    model: str
    own: str
    budget: int


class Compared(NamedTuple):
    """A kind against hashed tables that may take as many bytes: differences in test AUC, seed by seed."""

    kind: str
    area: float  # mean
    by_values: list[float]
    best: list[float]  # against the best division by the validation part; empty: one division was measured
    division: str


def settings(row: Report) -> str:
    """A cell's own settings, as they were typed."""
    words = shlex.split(row["command"])
    places = [place for place, word in enumerate(words) if word in OWN]
    return shlex.join(word for place in places for word in words[place : place + 2])


def by_place(cells: Sequence[Report]) -> dict[Place, dict[str, dict[int, Report]]]:
    """Cells of a number of bytes by what they have in common, kind and seed."""
    found: dict[Place, dict[str, dict[int, Report]]] = {}
    for row in cells:
        if row["budget"] is not None and row["trainer"] == OURS:
            place = Place(row["data"], row["model"], settings(row), row["budget"])
            found.setdefault(place, {}).setdefault(row["kind"], {})[row["seed"]] = row
    return dict(sorted(found.items()))


def comparisons(cells: Sequence[Report]) -> dict[Place, list[Compared]]:
    """Each kind that is not hashed, where it has hashed tables beside it."""
    found = {}
    for place, kinds in by_place(cells).items():
        if BY_VALUES in kinds:
            found[place] = [compared(kinds, kind) for kind in sorted(kinds.keys() - HASHED)]
    return {place: each for place, each in found.items() if each}


def compared(kinds: Mapping[str, Mapping[int, Report]], kind: str) -> Compared:
    """One kind of those in a place."""
    divisions = [name for name in HASHED if kinds[kind].keys() <= kinds.get(name, {}).keys()]
    best = max(divisions, key=lambda name: mean_of(kinds[name], "valid_auc")) if len(divisions) == len(HASHED) else None
    return Compared(
        kind,
        mean_of(kinds[kind], "auc"),
        gains(kinds[kind], kinds[BY_VALUES]),
        [] if best is None else gains(kinds[kind], kinds[best]),
        "-" if best is None else DIVISIONS[best],
    )


def gains(own: Mapping[int, Report], other: Mapping[int, Report]) -> list[float]:
    """Test AUC less that of the same seed's other cell."""
    return [row["auc"] - other[seed]["auc"] for seed, row in sorted(own.items()) if seed in other]


def mean_of(rows: Mapping[int, Report], column: str) -> float:
    """Over seeds."""
    return statistics.fmean(row[column] for row in rows.values())


def same_bytes(cells: Sequence[Report]) -> Iterator[str]:
    """Kinds against hashed tables of as many bytes, seed by seed."""
    found = comparisons(cells)
    if not found:
        return
    yield "## At the same bytes\n"
    yield "Test AUC less that of per-feature hashed tables that may take as many bytes, seed by seed: of tables with"
    yield "rows in proportion to each feature's values, and of the best of three divisions (by values, by their square"
    yield "roots, equal), which the validation part chose by its mean over seeds. In brackets: the lowest and the"
    yield "highest seed.\n"
    yield "| data | model | bytes | kind | test AUC | less hashed by values | less best | division | seeds | settings |"
    yield "|---|---|--:|---|--:|--:|--:|---|--:|---|"
    notes = list(dict.fromkeys(place.own for place in found if place.own))
    for place, each in found.items():
        for one in each:
            numbers = f"{one.area:.4f} | {spread(one.by_values)} | {spread(one.best)} | {one.division}"
            own = f"({notes.index(place.own) + 1})" if place.own else "-"
            words = f"{place.budget:,} | {one.kind} | {numbers} | {len(one.by_values)} | {own}"
            yield f"| {place.data} | {place.model} | {words} |"
    yield ""
    yield from (f"({number}) `{own}`\n" for number, own in enumerate(notes, 1))


def claim(cells: Sequence[Report]) -> Iterator[str]:
    """Whether unified tables are as far above hashed ones as is claimed, at the smallest number of bytes."""
    budgets: dict[Place, dict[int, Compared]] = {}
    for place, each in comparisons(cells).items():
        for one in each:
            if one.kind == "unified":
                budgets.setdefault(place._replace(budget=0), {})[place.budget] = one
    if not budgets:
        return
    yield f"### Claim: unified tables are {GOAL:+} AUC above hashed ones at the smallest number of bytes\n"
    yield "It is made against the best division; by values is the paper's baseline.\n"
    yield "| data | model | sizes | smallest | less hashed by values | so | less best | division | seeds | holds |"
    yield "|---|---|--:|--:|--:|---|--:|---|--:|---|"
    for place, by_budget in budgets.items():
        smallest = min(by_budget)
        one = by_budget[smallest]
        values = f"{spread(one.by_values)} | {holds(one.by_values)}"
        best = f"{spread(one.best)} | {one.division} | {len(one.by_values)} | {holds(one.best)}"
        yield f"| {place.data} | {place.model} | {len(by_budget)} | {smallest:,} | {values} | {best} |"
    yield ""


def holds(values: Sequence[float]) -> str:
    """What is said of the claim."""
    if not values:
        return "not claimed: one division was measured"
    if statistics.fmean(values) < GOAL:
        return "no"
    if len(values) < 3:
        return "not claimed: fewer than three seeds"
    return "yes, with every seed" if min(values) >= GOAL else "yes in the mean, not with every seed"


def spread(values: Sequence[float]) -> str:
    """A difference with its standard deviation over seeds, the lowest and the highest."""
    if len(values) < 2:
        return f"{values[0]:+.4f}" if values else "-"
    ends = f"({min(values):+.4f}, {max(values):+.4f})"
    return f"{statistics.fmean(values):+.4f} ± {statistics.stdev(values):.4f} {ends}"


def searched(cells: Sequence[Report]) -> Iterator[str]:
    """Tables that were searched for rows and columns, against those with all of them."""
    whole = {where(row): row for row in cells if row["kind"] == "collisionless" and row["trainer"] == OURS}
    lines = []
    for place, kinds in by_place(cells).items():
        rows = kinds.get(SEARCHED, {})
        pairs = [(row, whole[where(row)]) for row in rows.values() if where(row) in whole]
        if pairs:
            lines.append(searched_line(place, pairs))
    if not lines:
        return
    yield "## OptEmbed in the matrix\n"
    yield "Cells of kind `optembed` less those with all rows and columns, seed by seed. The claim: at least half of the"
    yield f"bytes go, and at most {LOSS} AUC.\n"
    yield "| data | model | full: AUC | bytes | found: AUC | bytes | bytes off | AUC | seeds | claim holds |"
    yield "|---|---|--:|--:|--:|--:|--:|--:|--:|---|"
    yield from lines
    yield ""


def where(row: Report) -> tuple[Any, ...]:
    """What a cell has in common with the same one of another kind."""
    return row["data"], row["model"], settings(row), row["seed"]


def searched_line(place: Place, pairs: Sequence[tuple[Report, Report]]) -> str:
    """A number of bytes."""
    found, full = ([pair[side] for pair in pairs] for side in (0, 1))
    areas = [statistics.fmean(row["auc"] for row in rows) for rows in (found, full)]
    sizes = [statistics.fmean(row["bytes"] for row in rows) for rows in (found, full)]
    change = [one["auc"] - other["auc"] for one, other in pairs]
    numbers = f"{areas[1]:.4f} | {sizes[1]:,.0f} | {areas[0]:.4f} | {sizes[0]:,.0f} | {1 - sizes[0] / sizes[1]:.1%}"
    said = saved(change, sizes[0] / sizes[1])
    return f"| {place.data} | {place.model} | {numbers} | {spread(change)} | {len(pairs)} | {said} |"


def saved(change: Sequence[float], share: float) -> str:
    """What is said of the claim."""
    if share > 0.5 or statistics.fmean(change) < -LOSS:
        return "no"
    if len(change) < 3:
        return "not claimed: fewer than three seeds"
    return "yes, with every seed" if min(change) >= -LOSS else "yes in the mean, not with every seed"


def rivals(cells: Sequence[Report]) -> Iterator[str]:
    """Ours beside deepctr-torch, where both were run on the same samples."""
    ours = {where(row): row for row in cells if row["kind"] == "collisionless" and row["trainer"] == OURS}
    pairs: dict[tuple[Any, ...], list[tuple[Report, Report]]] = {}
    for row in cells:
        if row["trainer"] == DEEPCTR and where(row) in ours:
            pairs.setdefault(where(row)[:3], []).append((ours[where(row)], row))
    if not pairs:
        return
    yield "## Beside deepctr-torch\n"
    yield "`--against deepctr`: the same models by deepctr-torch's own `fit`, on the same samples with the same sizes,"
    yield "rates and stopping rule ([what differs](offline.md)): test AUC, seed by seed, and samples a second of wall"
    yield "time, of the median seed.\n"
    yield "| data | model | test samples | monolith | deepctr-torch | difference | seeds | samples/s | deepctr-torch |"
    yield "|---|---|--:|--:|--:|--:|--:|--:|--:|"
    for (data, model, _), each in sorted(pairs.items()):
        areas = " | ".join(level([pair[side]["auc"] for pair in each]) for side in (0, 1))
        change = spread([one["auc"] - other["auc"] for one, other in each])
        rates = " | ".join(f"{statistics.median(pair[side]['samples_s'] for pair in each):,.0f}" for side in (0, 1))
        yield f"| {data} | {model} | {each[0][0]['test_samples']:,} | {areas} | {change} | {len(each)} | {rates} |"
    yield ""


def level(values: Sequence[float]) -> str:
    """Mean and standard deviation over seeds."""
    return f"{statistics.fmean(values):.4f}" + (f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else "")
