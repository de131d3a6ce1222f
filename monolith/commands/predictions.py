"""Predictions as a Parquet file: one row a sample."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from monolith.config import JobConfig
from monolith.errors import UnavailableError
from monolith.streaming.runner import Step
from monolith.training.metrics import weights_of


class PredictionFile:
    """Appends steps to a file. Columns: request_id, item_id, event_time (UTC), rate, and for each task its prediction,
    label and weight, by name where there are several. A context manager.
    """

    def __init__(self, path: Path, job: JobConfig) -> None:
        self._path, self._tasks = path, [task.name for task in job.labels]
        self._writer: Any = None

    def write(self, step: Step, predictions: np.ndarray) -> None:
        """Append the samples of ``step`` with what the model says of them. Raises UnavailableError if that fails."""
        batch, columns = step.batch, predictions.reshape(len(step.batch), len(self._tasks))
        table: dict[str, Any] = {
            "request_id": [request for request, _ in step.keys],
            "item_id": [item for _, item in step.keys],
            "event_time": pa.array(batch.event_time_ms, pa.timestamp("ms", "UTC")),
            "rate": batch.rates,
        }
        for place, task in enumerate(self._tasks):
            end = f"_{task}" if len(self._tasks) > 1 else ""
            table[f"prediction{end}"] = np.ascontiguousarray(columns[:, place])
            table[f"label{end}"] = np.ascontiguousarray(batch.labels[:, place])
            table[f"weight{end}"] = np.ascontiguousarray(weights_of(batch, place))
        try:
            self._append(pa.table(table))
        except OSError as error:
            raise UnavailableError(f"cannot write {self._path}: {error}; name another file by --out") from error

    def _append(self, table: pa.Table) -> None:
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._path, table.schema)
        self._writer.write_table(table)

    def __enter__(self) -> PredictionFile:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()
