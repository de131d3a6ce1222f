"""Samples on disk, for passes over more of them than fit into memory: blocks of batches, read back one at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import numpy as np

from monolith.tables.batch import Batch, concatenated
from monolith.tables.batch_bytes import from_bytes, to_bytes

BLOCK_ROWS = 262_144  # samples that are shuffled together


class SampleFile:
    """Appends batches to a file and reads them in blocks. One thread; a context manager that removes the file."""

    def __init__(self, path: Path, *, block_rows: int = BLOCK_ROWS) -> None:
        self._file = path.open("w+b")
        self._path, self._block_rows = path, block_rows
        self._waiting: list[Batch] = []
        self._places: list[tuple[int, int]] = []  # offset and length of each block
        self._rows: list[int] = []

    def __len__(self) -> int:
        """Samples so far."""
        return sum(self._rows) + sum(map(len, self._waiting))

    def append(self, batch: Batch) -> None:
        """Add samples behind the others."""
        if len(batch):
            self._waiting.append(batch)
        while sum(map(len, self._waiting)) >= self._block_rows:
            whole = concatenated(self._waiting)
            self._write(whole[: self._block_rows])
            self._waiting = [rest] if len(rest := whole[self._block_rows :]) else []

    def finish(self) -> None:
        """Nothing is appended any more."""
        if self._waiting:
            self._write(concatenated(self._waiting))
            self._waiting = []

    def _write(self, block: Batch) -> None:
        data = to_bytes(block)
        self._places.append((self._file.seek(0, 2), len(data)))
        self._rows.append(len(block))
        self._file.write(data)

    def blocks(self, order: np.random.Generator | None = None) -> Iterator[Batch]:
        """All samples in blocks: in order, or blocks and the samples of each shuffled by ``order``."""
        numbers = range(len(self._places)) if order is None else order.permutation(len(self._places)).tolist()
        for number in numbers:
            offset, length = self._places[number]
            self._file.seek(offset)
            block = from_bytes(self._file.read(length))
            yield block if order is None else block.take(order.permutation(len(block)))

    def batches(self, size: int, order: np.random.Generator | None = None) -> Iterator[Batch]:
        """The same, ``size`` samples at a time; the last batch of a block may have fewer."""
        for block in self.blocks(order):
            yield from block.pieces(size)

    def __enter__(self) -> SampleFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._path.unlink(missing_ok=True)
