"""The raw results: one row a cell in a Parquet file that only grows, so that a matrix of hours runs in pieces."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from monolith.config.load import job_json
from monolith.datasets.sets.about import About
from monolith.disk import scratch_beside
from monolith.errors import CorruptError
from monolith.offline.cells import Cell
from monolith.offline.fit_cell import Fitted
from monolith.offline.ran import machine

NAME = "results.parquet"
WRITES = "another process adds to the results in"  # whoever holds the folder, in words
_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("key", "time", "data", "model", "kind", "trainer")),
        *((name, pa.int64()) for name in ("budget", "seed")),
        *(
            (name, pa.float64())
            for name in ("auc", "gauc", "logloss", "normalised_entropy", "calibration", "valid_auc")
        ),
        *((name, pa.int64()) for name in ("best_epoch", "epochs", "bytes", "state_bytes", "dense_bytes", "rows")),
        *((name, pa.int64()) for name in ("train_samples", "test_samples")),
        *((name, pa.float64()) for name in ("samples_s", "seconds", "load", "best_auc")),
        *((name, pa.string()) for name in ("split", "label", "machine", "command", "job")),
    ]
)

Row = dict[str, Any]


class Results:
    """The file in ``folder``. One process writes it at a time, see `monolith.growing.alone`."""

    def __init__(self, folder: Path) -> None:
        """Raises CorruptError where the file cannot be read."""
        self.path = folder / NAME
        self.rows: list[Row] = read_results(self.path) if self.path.exists() else []

    def has(self, cell: Cell) -> bool:
        """Whether the cell was fitted before."""
        return any(is_of(row, cell) for row in self.rows)

    def twin(self, cell: Cell) -> Row | None:
        """The cell's row, made of a cell with the same job under another name; None where there is none.

        Divisions of few bytes may come to the same rows, and sizes above what a kind takes to the same tables.
        """
        same = next((row for row in self.rows if row["key"] == cell.key), None)
        return same and {**same, "kind": cell.kind, "budget": cell.budget}

    def add(self, row: Row) -> None:
        """Keep a row, on the disk too, whole or not at all."""
        self.rows.append(row)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        scratch = scratch_beside(self.path)
        pq.write_table(pa.Table.from_pylist(self.rows, schema=_SCHEMA), scratch)
        scratch.replace(self.path)


def read_results(path: Path) -> list[Row]:
    """The rows. Raises CorruptError for a file that is none of this benchmark's."""
    try:
        table = pq.read_table(path)
        return list(table.cast(_SCHEMA).to_pylist())
    except (pa.ArrowInvalid, ValueError, OSError) as error:
        raise CorruptError(f"{path} holds no results of this benchmark: {error}; name another folder") from None


def is_of(row: Row, cell: Cell) -> bool:
    """Whether the row is this cell's."""
    return (row["key"], row["kind"], row["budget"]) == (cell.key, cell.kind, cell.budget)


def row_of(cell: Cell, fitted: Fitted, about: About, command: str) -> Row:
    """A cell and what came of it, as the file has it."""
    scores = msgspec.structs.asdict(fitted.test)
    return {
        "key": cell.key,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        **{name: getattr(cell, name) for name in ("data", "model", "kind", "trainer", "budget", "seed")},
        **{name: scores[name] for name in ("auc", "gauc", "logloss", "normalised_entropy", "calibration")},
        **{name: value for name, value in fitted._asdict().items() if name != "test"},
        "train_samples": about.parts["train"].samples,
        "test_samples": about.parts["test"].samples,
        "load": os.getloadavg()[0],
        "best_auc": about.best_auc,
        "split": str(about.split),
        "label": about.label,
        "machine": machine(),
        "command": command,
        "job": job_json(cell.job).decode(),
    }
