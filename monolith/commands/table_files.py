"""Files that a table's rows are exported to; the suffix says which kind.

`.parquet`, `.csv` and `.jsonl` are written piece by piece; `.npz`, `.npy` and `.safetensors` hold the table in memory
until its last row. A file appears under its name when it is whole; an earlier one of that name stays until then.
"""

from __future__ import annotations

import csv
import io
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np
import numpy.typing as npt

from monolith.disk import remedy
from monolith.errors import ConfigError, UnavailableError
from monolith.extras import advice

Ids = npt.NDArray[np.int64]  # (n,)
Values = npt.NDArray[np.float32]  # (n, dim)
Texts = Sequence[str | None]  # (n,): what each id is called; None: not known


class TableFile:
    """Rows of one table, in the order in which they are written."""

    holds_texts = True  # whether the format has room for what ids are called

    def __init__(self, file: BinaryIO, dim: int, *, texts: bool) -> None:
        """``texts``: whether each piece comes with what its ids are called, for a column ``value``."""
        self.file, self.dim, self.texts = file, dim, texts and self.holds_texts

    @abstractmethod
    def write(self, ids: Ids, values: Values, texts: Texts | None) -> None:
        """Append rows; a writer without ``texts`` does not look at them."""

    def finish(self) -> None:
        """Write what only the last row makes known."""

    def give_up(self) -> None:
        """Let go of what was begun; the file is thrown away."""


class _Parquet(TableFile):
    def __init__(self, file: BinaryIO, dim: int, *, texts: bool) -> None:
        super().__init__(file, dim, texts=texts)
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns = [("id", pa.int64()), *([("value", pa.string())] if texts else []), ("values", pa.list_(pa.float32()))]
        self._arrow, self._schema = pa, pa.schema(columns)
        self._writer = pq.ParquetWriter(
            file, self._schema, compression="zstd", use_dictionary=False
        )  # no value repeats

    def write(self, ids: Ids, values: Values, texts: Texts | None) -> None:
        """A row group."""
        pa = self._arrow
        offsets = np.arange(len(ids) + 1, dtype=np.int32) * self.dim
        rows = pa.ListArray.from_arrays(offsets, values.ravel())
        named = [pa.array(texts, pa.string())] if self.texts else []
        self._writer.write_table(pa.table([pa.array(ids), *named, rows], schema=self._schema))

    def finish(self) -> None:
        """The footer."""
        self._writer.close()

    def give_up(self) -> None:
        """Close the writer while there is a file to close it on."""
        with suppress(Exception):  # what failed before is what is told
            self._writer.close()


class _Csv(TableFile):
    """A header, then a line a row: each value in the fewest digits that give it back."""

    def __init__(self, file: BinaryIO, dim: int, *, texts: bool) -> None:
        super().__init__(file, dim, texts=texts)
        self._lines([["id", *(["value"] * self.texts), *(f"v{column}" for column in range(dim))]])

    def write(self, ids: Ids, values: Values, texts: Texts | None) -> None:
        """Lines; an id whose text is not known has an empty field."""
        named = [[name or ""] for name in texts or ()] if self.texts else [[]] * len(ids)
        self._lines([i, *name, *row] for i, name, row in zip(ids.tolist(), named, _digits(values), strict=True))

    def _lines(self, rows: Iterable[list[object]]) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)
        self.file.write(text.getvalue().encode())


class _JsonLines(TableFile):
    """An object a row: ``id``, ``value`` where there are texts, ``values``; a value that is no number is null."""

    def write(self, ids: Ids, values: Values, texts: Texts | None) -> None:
        """Lines."""
        digits = np.where(np.isfinite(values), _digits(values), "null")
        encode = msgspec.json.encode
        named = [f'"value":{encode(name).decode()},' for name in texts or ()] if self.texts else [""] * len(ids)
        for number, name, row in zip(ids.tolist(), named, digits, strict=True):
            self.file.write(f'{{"id":{number},{name}"values":[{",".join(row)}]}}\n'.encode())


class _InMemory(TableFile):
    def __init__(self, file: BinaryIO, dim: int, *, texts: bool) -> None:
        super().__init__(file, dim, texts=texts)
        self._ids: list[Ids] = []
        self._values: list[Values] = []
        self._texts: list[str] = []

    def write(self, ids: Ids, values: Values, texts: Texts | None) -> None:
        """Keep the rows until the end."""
        self._ids.append(ids)
        self._values.append(values)
        self._texts.extend(name or "" for name in texts or ())

    def arrays(self) -> dict[str, Any]:
        """``ids`` (n,), ``values`` (n, dim), and ``texts`` (n,) where there are any."""
        arrays: dict[str, Any] = {
            "ids": np.concatenate([np.zeros(0, np.int64), *self._ids]),
            "values": np.concatenate([np.zeros((0, self.dim), np.float32), *self._values]),
        }
        return arrays | ({"texts": np.array(self._texts, np.str_)} if self.texts else {})


class _Npz(_InMemory):
    def finish(self) -> None:
        """Arrays by name."""
        np.savez_compressed(self.file, **self.arrays())


class _Npy(_InMemory):
    holds_texts = False

    def finish(self) -> None:
        """One array (n,) of a structured type: ``id`` int64, ``values`` float32 (dim,)."""
        arrays = self.arrays()
        ids, values = arrays["ids"], arrays["values"]
        rows = np.empty(len(ids), [("id", np.int64), ("values", np.float32, (self.dim,))])
        rows["id"], rows["values"] = ids, values
        np.save(self.file, rows)


class _Safetensors(_InMemory):
    holds_texts = False

    def finish(self) -> None:
        """Tensors ``ids`` and ``values``."""
        from safetensors.numpy import save

        self.file.write(save(self.arrays()))


_KINDS: dict[str, Callable[..., TableFile]] = {
    ".parquet": _Parquet,
    ".csv": _Csv,
    ".jsonl": _JsonLines,
    ".npz": _Npz,
    ".npy": _Npy,
    ".safetensors": _Safetensors,
}
SUFFIXES = tuple(_KINDS)


def check_suffix(path: Path) -> None:
    """Raises ConfigError for a suffix that names no kind of file."""
    if path.suffix.lower() not in _KINDS:
        seen = f"the suffix {path.suffix!r}" if path.suffix else "no suffix"
        raise ConfigError(f"--out {path} has {seen}, which says what is written: allowed are {', '.join(SUFFIXES)}")


@contextmanager
def table_file(path: Path, dim: int, *, texts: bool) -> Iterator[TableFile]:
    """A writer of the file ``path``, which exists when the block is left, and not where the block raises.

    Raises ConfigError as `check_suffix` does, and where a library is missing; UnavailableError where the disk refuses.
    """
    check_suffix(path)
    scratch = path.with_name(f".{path.name}.tmp")
    try:
        with scratch.open("wb") as file:
            writer = _opened(path, file, dim, texts=texts)
            try:
                yield writer
                writer.finish()
            except BaseException:
                writer.give_up()
                raise
        scratch.replace(path)
    except OSError as error:
        raise UnavailableError(f"cannot write {path}: {error}; {remedy(error)}") from error
    finally:
        with suppress(OSError):
            scratch.unlink()


def _opened(path: Path, file: BinaryIO, dim: int, *, texts: bool) -> TableFile:
    try:
        return _KINDS[path.suffix.lower()](file, dim, texts=texts)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"cannot write {path.suffix} files: {advice(error.name or '') or error}; .csv, .jsonl and .npz need nothing"
        ) from error


def _digits(values: Values) -> npt.NDArray[np.str_]:
    """The shortest decimal of each value that is read as the same float32."""
    return values.astype(np.str_)
