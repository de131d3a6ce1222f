"""An evolutionary search for the best widths, one for each table.

Half of a generation are mutations, half crossovers. Parents are drawn from the best 15 of all candidates so far, the
better of two draws each, so nothing good is lost from one generation to the next, and a candidate is scored once. In
the reference, a mutation changes its parent in place, scores are not sorted along with their candidates, and crossover
cuts at a place below D where there are F genes; here none of that is so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

PARENTS = 15
MUTATED = 0.1  # share of the widths that a mutation draws anew; one at least
TRIES = 50  # for a child that was not scored yet

Widths = tuple[int, ...]
Score = Callable[[Widths, int], float]  # of a candidate, and the number of its generation; higher is better


class Candidate(NamedTuple):
    """Widths, and how good the model is with them."""

    score: float
    widths: Widths


class Generation(NamedTuple):
    """What is known after a generation."""

    number: int  # 0: the first candidates, which have no parents
    best: Candidate
    scored: int  # candidates so far


def evolve(dims: Sequence[int], score: Score, *, generations: int, population: int, seed: int) -> Iterator[Generation]:
    """Each generation as it is done. A function of the arguments and of what ``score`` says."""
    rng = np.random.default_rng([seed, 23])
    known: dict[Widths, float] = {}

    def best_first() -> list[Candidate]:
        return sorted((Candidate(s, w) for w, s in known.items()), key=lambda c: (-c.score, c.widths))

    for number in range(generations + 1):
        parents = best_first()[:PARENTS]
        children = _children(dims, parents, known, population, rng) if parents else _first(dims, population, rng)
        for widths in children:
            if widths not in known:
                known[widths] = score(widths, number)
        yield Generation(number, best_first()[0], len(known))


def _first(dims: Sequence[int], count: int, rng: np.random.Generator) -> list[Widths]:
    """All tables at full width, at a half, a quarter, ... of it; the others drawn."""
    found: dict[Widths, None] = {}
    share = 1
    while share <= max(dims) and len(found) < count:
        found[tuple(max(1, dim // share) for dim in dims)] = None
        share *= 2
    for _ in range(TRIES * count):
        if len(found) >= count:
            break
        found[tuple(int(rng.integers(1, dim + 1)) for dim in dims)] = None
    return list(found)


def _children(
    dims: Sequence[int],
    parents: Sequence[Candidate],
    known: dict[Widths, float],
    count: int,
    rng: np.random.Generator,
) -> list[Widths]:
    """Half of them mutations, half crossovers, none known; fewer where there are not so many others."""
    found: dict[Widths, None] = {}
    for child in range(count):
        for _ in range(TRIES):
            one, other = (parents[int(rng.integers(len(parents), size=2).min())].widths for _ in range(2))
            widths = _mutated(one, dims, rng) if child % 2 == 0 or len(dims) < 2 else _crossed(one, other, dims, rng)
            if widths not in known and widths not in found:
                found[widths] = None
                break
    return list(found)


def _mutated(parent: Widths, dims: Sequence[int], rng: np.random.Generator) -> Widths:
    """A copy with some widths changed: mostly by one or two, else drawn anew from 1 to the dim."""
    changed = rng.random(len(dims)) < MUTATED
    changed[int(rng.integers(len(dims)))] = True
    near = rng.random(len(dims)) < 0.7
    steps = rng.choice([-2, -1, 1, 2], len(dims))
    anew = [int(rng.integers(1, dim + 1)) for dim in dims]
    return tuple(
        (min(max(width + int(steps[i]), 1), dims[i]) if near[i] else anew[i]) if changed[i] else width
        for i, width in enumerate(parent)
    )


def _crossed(one: Widths, other: Widths, dims: Sequence[int], rng: np.random.Generator) -> Widths:
    """The first tables' widths of one parent, the others' of the other; parents that agree there give a mutation."""
    cut = int(rng.integers(1, len(dims)))
    child = one[:cut] + other[cut:]
    return _mutated(child, dims, rng) if child in (one, other) else child
