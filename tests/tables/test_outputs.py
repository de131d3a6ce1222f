"""Memory of large results: used again, but never while anything shows it."""

from __future__ import annotations

import resource
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from monolith.tables.outputs import empty_matrix

LARGE = (1 << 17, 64)  # 32 MiB


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
    rows = 6 * LARGE[0]  # of which no other test keeps any
    where = place(empty_matrix(rows, 32))
    assert place(empty_matrix(rows, 16)) == where
    assert place(empty_matrix(rows - 1, 16)) != where


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def test_what_is_kept_is_bounded() -> None:
    one = LARGE[0] * LARGE[1] * 4
    before = resident_bytes()
    several = [empty_matrix(*LARGE) for _ in range(6)]
    for matrix in several:
        matrix[...] = 1.0
    del several, matrix
    assert resident_bytes() < before + 3 * one
    too_large = empty_matrix((1 << 20) + 1, 64)
    too_large[:: 1 << 10] = 1.0
    taken = resident_bytes()
    del too_large
    assert resident_bytes() < taken


def test_threads_never_share_memory() -> None:
    def use(number: int) -> bool:
        mine = empty_matrix(*LARGE)
        mine[::64] = number
        time.sleep(0)
        return bool((mine[::64] == number).all())

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(use, range(64)))
