"""Memory of large results: used again, but never while anything shows it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from monolith.tables import outputs
from monolith.tables.outputs import empty_matrix

LARGE = (1 << 17, 64)  # 32 MiB


@pytest.fixture(autouse=True)
def _nothing_spare() -> None:
    outputs._spare.clear()


def place(matrix: np.ndarray) -> int:
    return matrix.ctypes.data


@pytest.mark.parametrize("shape", [(0, 4), (3, 5), (1 << 10, 16), (1 << 18, 16), LARGE])
def test_a_matrix_can_be_written_and_begins_at_a_memory_line(shape: tuple[int, int]) -> None:
    matrix = empty_matrix(*shape)
    matrix[...] = 7.0
    assert matrix.shape == shape
    assert matrix.dtype == np.float32
    assert matrix.flags.c_contiguous
    assert matrix.size < 1 << 14 or place(matrix) % 64 == 0


def test_the_next_result_has_the_memory_of_one_that_is_gone() -> None:
    first = empty_matrix(*LARGE)
    where = place(first)
    del first
    again = empty_matrix(LARGE[0] - 5, LARGE[1])
    assert place(again) == where


@pytest.mark.parametrize(
    "show", [lambda m: m, lambda m: m[5:7, 1], torch.from_numpy, lambda m: torch.from_numpy(m)[3:].T, memoryview]
)
def test_memory_that_anything_shows_is_not_used_again(show) -> None:
    matrix = empty_matrix(*LARGE)
    matrix[...] = 1.0
    where, shown = place(matrix), show(matrix)
    del matrix
    other = empty_matrix(*LARGE)
    other[...] = 2.0
    assert place(other) != where
    assert (np.asarray(shown) == 1.0).all()
    del shown
    assert place(empty_matrix(*LARGE)) == where


def test_a_result_does_not_hold_more_than_twice_its_size() -> None:
    where = place(empty_matrix(*LARGE))
    assert len(outputs._spare) == 1
    less, half = empty_matrix(LARGE[0] // 2 - 1, LARGE[1]), empty_matrix(LARGE[0] // 2, LARGE[1])
    assert place(half) == where
    assert place(less) != where


def test_what_is_kept_is_bounded() -> None:
    several = [empty_matrix(*LARGE) for _ in range(5)]
    del several
    assert len(outputs._spare) == 2
    outputs._spare.clear()
    largest = 1 << 26
    empty_matrix(largest // 64 + 1, 64)  # not touched, so it costs nothing
    assert not outputs._spare


def test_threads_never_share_memory() -> None:
    def use(number: int) -> bool:
        mine = empty_matrix(*LARGE)
        mine[::64] = number
        return bool((mine[::64] == number).all())

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(use, range(64)))
