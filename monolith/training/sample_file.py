"""Samples on disk, for passes over more of them than fit into memory: blocks of batches, read back one at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec
import numpy as np

from monolith.disk import write_durably
from monolith.errors import CorruptError
from monolith.tables.batch import Batch, concatenated
from monolith.tables.batch_bytes import from_bytes, to_bytes

BLOCK_ROWS = 262_144  # samples that are shuffled together
_ANEW = "remove its folder to have the streams read anew"


class _Index(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the blocks of a kept file are."""

    places: list[tuple[int, int]]  # offset and length of each
    rows: list[int]  # samples of each


class SampleFile:
    """Appends batches to a file and reads them in blocks. One thread; a context manager that removes the file."""

    def __init__(self, path: Path, *, block_rows: int = BLOCK_ROWS, keep: bool = False) -> None:
        """``keep``: the file stays, and after `finish` anybody may `reopen` it."""
        self._open(path, "w+b", keep, _Index([], []))
        self._block_rows = block_rows

    @classmethod
    def reopen(cls, path: Path) -> SampleFile:
        """Read samples that were kept, beside any number of other readers. Raises CorruptError, and OSError."""
        try:
            index = msgspec.json.decode(_index(path).read_bytes(), type=_Index)
        except msgspec.DecodeError as error:
            raise CorruptError(f"{_index(path)} cannot be read: {error}; {_ANEW}") from error
        file = cls.__new__(cls)
        file._open(path, "rb", True, index)
        return file

    def _open(self, path: Path, mode: str, keep: bool, index: _Index) -> None:
        self._file: Any = path.open(mode)
        self._path, self._keep = path, keep
        self._waiting: list[Batch] = []
        self._places = index.places
        self._rows = index.rows

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
        if self._keep:
            self._file.flush()
            os.fsync(self._file.fileno())
            write_durably(_index(self._path), msgspec.json.encode(_Index(self._places, self._rows)))

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
            try:
                block = from_bytes(self._file.read(length))
            except CorruptError as error:
                raise CorruptError(f"{self._path}, samples that were kept: {error}; {_ANEW}") from None
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
        if not self._keep:
            self._path.unlink(missing_ok=True)


def _index(path: Path) -> Path:
    return path.with_name(path.name + ".index")
