"""The search finds the widths that are best, scores each candidate once, and repeats itself."""

from __future__ import annotations

import numpy as np
import pytest

from monolith.optembed.evolution import evolve


def last(dims, score, **settings):
    *_, generation = evolve(dims, score, **({"generations": 30, "population": 20, "seed": 1} | settings))
    return generation


@pytest.mark.parametrize("seed", range(8))
def test_a_known_optimum_is_met_to_within_one_column_a_table(seed):
    target = np.random.default_rng(seed).integers(1, 17, 10)
    best = last([16] * 10, lambda widths, _: -float(((np.array(widths) - target) ** 2).sum()), seed=seed).best
    assert np.abs(np.array(best.widths) - target).max() <= 1
    assert best.score == -float(((np.array(best.widths) - target) ** 2).sum())


def test_each_candidate_is_scored_once_and_the_best_is_never_lost():
    asked: list[tuple[int, ...]] = []

    def score(widths, _):
        asked.append(widths)
        return float(np.sin(np.arange(1, 5) * widths).sum())

    dims, best = [8, 8, 8, 3], -np.inf
    for generation in evolve(dims, score, generations=12, population=10, seed=3):
        assert generation.best.score >= best
        best = generation.best.score
        assert generation.scored == len(asked)
    assert len(asked) == len(set(asked)) > 100
    assert best == max(float(np.sin(np.arange(1, 5) * widths).sum()) for widths in asked)
    assert all(1 <= width <= dim for widths in asked for width, dim in zip(widths, dims, strict=True))


def test_two_searches_ask_for_the_same_candidates_in_the_same_order():
    runs: list[list[tuple[int, ...]]] = [[], []]
    for run in runs:
        last([6, 6, 6], lambda widths, _, run=run: run.append(widths) or float(sum(widths)), generations=5)
    assert runs[0] == runs[1]


def test_a_single_table_of_few_widths_is_searched_to_the_end():
    generation = last([3], lambda widths, _: -abs(widths[0] - 2.0))
    assert (generation.best.widths, generation.scored) == ((2,), 3)


def test_the_first_candidates_are_the_whole_width_and_its_halves():
    asked: list[tuple[int, ...]] = []
    last([16, 8], lambda widths, _: asked.append(widths) or 0.0, generations=1)
    assert asked[:5] == [(16, 8), (8, 4), (4, 2), (2, 1), (1, 1)]
