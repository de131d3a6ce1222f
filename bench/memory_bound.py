"""The memory traffic of a training step and nothing else, in C++: what no table can be faster than.

For each id an index line read and its row read, then, after all of them, its row read and written. Bytes of the index
and of a row are those of our table, as its stats() say. How far ahead lines are asked for is tried out: the best of
none and 8 to 64 ids, in the first-level cache or the second, for each half by itself.
"""

from __future__ import annotations

import ctypes
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import numpy as np

from monolith.tables.stats import TableStats

AHEAD = [(0, 1), *((ids, level) for ids in (8, 16, 32, 64) for level in (1, 2))]  # ids, cache level
TRIALS = 5
Ahead = tuple[tuple[int, int], tuple[int, int]]  # of forward and of backward


class MemoryBound:
    """As many rows as the table of ``stats`` has, of as many bytes."""

    name = "memory bound"

    def __init__(self, stats: TableStats) -> None:
        self.library, self.count = compiled(), stats.rows
        self.threads, self.ahead = 1, (AHEAD[0], AHEAD[0])
        self.stride = (stats.bytes_values + stats.bytes_state + stats.bytes_stamps) // (stats.rows + stats.free_rows)
        self.index_bytes = stats.bytes_index
        self.index = self.library.allocate(self.index_bytes)
        self.rows = self.library.allocate(self.count * self.stride)

    def use(self, threads: int, ids: int) -> None:
        """From now on with so many threads, and asking ahead as suits so many ids best."""
        self.threads = threads
        self.ahead = self._best_ahead(ids)

    def run(self, numbers: np.ndarray, ahead: Ahead | None = None) -> tuple[float, float]:
        """Seconds of forward and of backward over row numbers (n,) int64."""
        forward, backward = ahead or self.ahead
        seconds, distances = (ctypes.c_double * 2)(), (ctypes.c_size_t * 4)(*forward, *backward)
        memory = (self.index, self.index_bytes, self.rows, self.count, self.stride)
        pointer = numbers.ctypes.data_as(ctypes.c_void_p)
        self.library.memory_bound(*memory, pointer, len(numbers), self.threads, distances, seconds)
        return seconds[0], seconds[1]

    def _best_ahead(self, ids: int) -> Ahead:
        rng = np.random.default_rng(1)
        trials = [[self.run(rng.integers(0, self.count, ids), (far, far)) for far in AHEAD] for _ in range(TRIALS)]
        forward, backward = np.median(trials, axis=0).argmin(axis=0)
        return AHEAD[forward], AHEAD[backward]

    def __del__(self) -> None:
        self.library.release(self.index)
        self.library.release(self.rows)


@cache
def compiled() -> ctypes.CDLL:
    """The library, built for this machine."""
    source = Path(__file__).with_suffix(".cpp")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "memory_bound.so"
        flags = ["-O3", "-std=c++17", "-shared", "-fPIC", "-pthread"]
        subprocess.run(["c++", *flags, str(source), "-o", str(path)], check=True)
        library = ctypes.CDLL(str(path))
    size, pointer = ctypes.c_size_t, ctypes.c_void_p
    library.allocate.restype, library.allocate.argtypes = pointer, [size]
    library.release.argtypes = [pointer]
    library.memory_bound.restype = ctypes.c_uint64
    library.memory_bound.argtypes = [pointer, size, pointer, size, size, pointer, size, size, pointer, pointer]
    return library
