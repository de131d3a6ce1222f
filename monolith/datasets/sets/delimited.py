"""Delimited text files of any size, plain or gzipped, a block of lines at a time, by pyarrow's reader.

All cells come as text, and are made numbers here, so that one broken cell is one broken line and not a broken block.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from monolith.datasets.sets.lines import EXAMPLES, Lines, cell
from monolith.errors import CorruptError

BLOCK_BYTES = 8 << 20
_NO_TEXT = "\N{REPLACEMENT CHARACTER}"  # in place of what is no UTF-8
_WHOLE = r"^[+-]?[0-9]{1,18}$"
NUMBER = r"^[+-]?([0-9]+([.][0-9]*)?|[.][0-9]+)([eE][+-]?[0-9]{1,3})?$"


@dataclass(frozen=True)
class Format:
    """How the lines of a file are to be read."""

    columns: tuple[str, ...]  # where there is no header; with one, the columns that it must have
    delimiter: str = ","
    header: bool = True
    quoted: bool = False  # a cell may stand in quotes, with delimiters in it


class Block:
    """Consecutive lines as columns of text. What `integers` and the like cannot read is rejected, by line."""

    def __init__(self, path: Path, batch: pa.RecordBatch, number: Callable[[int], int], lines: Lines) -> None:
        self._path, self._batch, self._number, self._lines = path, batch, number, lines
        self._fit = np.ones(batch.num_rows, np.bool_)
        for name in batch.schema.names:
            self._check_text(name)

    def __len__(self) -> int:
        return int(self._batch.num_rows)

    def texts(self, name: str) -> pa.Array:
        """The column as it is; an empty cell is null."""
        return self._batch.column(name)

    def integers(self, name: str, *, required: bool = False) -> pa.Array:
        """int64; null for an empty cell, which rejects the line where it is ``required``."""
        return self._numbers(name, _WHOLE, pa.int64(), "a whole number", required=required)

    def floats(self, name: str, *, required: bool = False) -> pa.Array:
        """float64, likewise."""
        return self._numbers(name, NUMBER, pa.float64(), "a number", required=required)

    def require(self, fit: npt.NDArray[np.bool_], name: str, allowed: str) -> None:
        """Reject the lines whose ``fit`` (n,) is False: their ``name`` is not ``allowed``."""
        self._reject(~fit, name, allowed)

    def table(self, columns: Mapping[str, Any]) -> pa.Table:
        """The columns of the lines that were not rejected, which are counted."""
        self._lines.take(int(self._fit.sum()))
        table = pa.table(dict(columns))
        return table if self._fit.all() else table.filter(pa.array(self._fit))

    def _numbers(self, name: str, pattern: str, kind: pa.DataType, allowed: str, *, required: bool) -> pa.Array:
        text = self._batch.column(name)
        fits = pc.match_substring_regex(text, pattern)
        empty = text.is_null()
        wrong = pc.fill_null(pc.invert(fits), required).to_numpy(zero_copy_only=False)
        if wrong.any():
            self._reject(wrong, name, allowed)
        return pc.if_else(pc.and_(fits, pc.invert(empty)), text, None).cast(kind)

    def _reject(self, wrong: npt.NDArray[np.bool_], name: str, allowed: str) -> None:
        rows = np.flatnonzero(wrong & self._fit).tolist()
        named = rows[:EXAMPLES]
        self._lines.reject_more(len(rows) - len(named))
        for row in named:
            seen = self._batch.column(name)[row].as_buffer()
            said = "nothing" if seen is None else cell(seen.to_pybytes().decode("utf-8", "replace"))
            self._lines.reject(self._path, self._number(row), f"{name} is {said}, allowed is {allowed}")
        self._fit &= ~wrong

    def _check_text(self, name: str) -> None:
        """Reject lines that are no UTF-8, in which `_Utf8` wrote its sign."""
        wrong = pc.fill_null(pc.match_substring(self._batch.column(name), _NO_TEXT), False)
        self._reject(wrong.to_numpy(zero_copy_only=False), name, "text in UTF-8")


def blocks(path: Path, form: Format, lines: Lines) -> Iterator[Block]:
    """The file's lines in order. Raises CorruptError where the file is no such file."""
    invalid: list[int] = []  # numbers of lines with too many or too few cells
    before = lines.good + lines.broken

    def skip(row: Any) -> str:
        invalid.append(int(row.number))
        lines.reject(path, row.number, f"{row.actual_columns} cells, expected {row.expected_columns}")
        return "error" if lines.hopeless(before + row.number) else "skip"

    first = 2 if form.header else 1
    try:
        reader = _open(path, form, skip)
        _check_header(path, form, reader.schema.names)
        done = 0
        for batch in reader:
            yield Block(path, batch, _numbering(done + first, invalid), lines)
            done += batch.num_rows
    except (pa.ArrowInvalid, OSError, EOFError) as error:
        if invalid and lines.hopeless(before + invalid[-1]):
            lines.check(before + invalid[-1])
        raise CorruptError(f"{path} cannot be read: {error}") from None


def _open(path: Path, form: Format, skip: Callable[[Any], str]) -> Any:
    names = None if form.header else list(form.columns)
    return csv.open_csv(
        pa.TransformInputStream(pa.input_stream(str(path), compression="detect"), _Utf8()),
        read_options=csv.ReadOptions(column_names=names, block_size=BLOCK_BYTES, use_threads=False),
        parse_options=csv.ParseOptions(
            delimiter=form.delimiter,
            quote_char='"' if form.quoted else False,
            ignore_empty_lines=False,
            invalid_row_handler=skip,
        ),
        convert_options=csv.ConvertOptions(
            check_utf8=False,  # `_Utf8` sees to that
            column_types={name: pa.string() for name in form.columns},
            include_columns=list(form.columns),
            include_missing_columns=True,
            null_values=[""],
            strings_can_be_null=True,
        ),
    )


def _check_header(path: Path, form: Format, names: Sequence[str]) -> None:
    """A column that the file lacks was made of nulls."""
    if not form.header:
        return
    with pa.input_stream(str(path), compression="detect") as stream:
        head = stream.read(1 << 16).split(b"\n")[0].decode("utf-8-sig", "replace").strip().split(form.delimiter)
    there = [name.strip('"') for name in head]
    if missing := [name for name in names if name not in there]:
        raise CorruptError(
            f"{path} has no column {', '.join(missing)}; its first line has {', '.join(there[:40])}: is it the file "
            f"that the data set is made of?"
        )


def _numbering(first: int, invalid: list[int]) -> Callable[[int], int]:
    """The number of the line of a block's row; lines that were skipped count."""

    def number(row: int) -> int:
        line = first + row
        for skipped in sorted(invalid):
            line += skipped <= line
        return line

    return number


class _Utf8:
    """Bytes as they are read, in UTF-8 throughout: pyarrow stops at a line of too few cells that is something else.

    A mark of the order of bytes, with which some programs begin a file, is left out.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")("replace")

    def __call__(self, some: Any) -> bytes:
        """The next bytes; none at the end."""
        return self._decoder.decode(bytes(some), final=not len(some)).encode()
