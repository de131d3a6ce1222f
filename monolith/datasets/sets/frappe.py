"""Frappe in libFM's format, as the factorization machines' papers share it: a use of an app and its context."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa

from monolith.datasets.sets.description import LABEL, PART, START_MS, TIME
from monolith.datasets.sets.lines import WHOLE, Lines, cell

FIELDS = ("user", "item", "daytime", "weekday", "isweekend", "homework", "cost", "weather", "country", "city")
_FILES = ("frappe.train.libfm", "frappe.validation.libfm", "frappe.test.libfm")
_ROWS = 65_536


def libfm(folder: Path, lines: Lines) -> Iterator[pa.Table]:
    """The three files, in order; a line is ``label id:1 ...`` with an id for each of `FIELDS`, in their order."""
    first = 0
    for part, name in enumerate(_FILES):
        path = folder / name
        with path.open(encoding="latin-1") as file:
            numbered = enumerate(file, start=1)
            while some := list(islice(numbered, _ROWS)):
                rows = [row for number, line in some if (row := _row(path, number, line, lines)) is not None]
                lines.take(len(rows))
                cells = np.array(rows, np.int64).reshape(-1, len(FIELDS) + 1)
                columns = {field: cells[:, i + 1] for i, field in enumerate(FIELDS)}
                times = START_MS + np.arange(first, first + len(cells))
                parts = np.full(len(cells), part, np.int8)
                yield pa.table({LABEL: (cells[:, 0] > 0).astype(np.int8), TIME: times, PART: parts, **columns})
                first += len(cells)


def _row(path: Path, number: int, line: str, lines: Lines) -> list[int] | None:
    label, *cells = line.split() or [""]
    try:
        row = [round(float(label)), *(int(text.partition(":")[0]) for text in cells)]
    except (ValueError, OverflowError):
        row = []
    if len(row) == len(FIELDS) + 1 and all(number in WHOLE for number in row):
        return row
    lines.reject(path, number, f"{cell(line.strip())} is not a label and {len(FIELDS)} ids of the form ID:1")
    return None
