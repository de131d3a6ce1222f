"""What comes out: two jobs with compact tables, each with a state folder that begins with the retrained model.

``serving`` keeps the rows that were found and admits none. ``online`` goes on learning: ids come by the job's own
admission, and the learnt threshold takes those rows that are still small when their probation is over.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np
import yaml

from monolith.config import JobConfig
from monolith.config.document import Document
from monolith.config.fit import LastPart
from monolith.config.load import load_job
from monolith.disk import write_durably
from monolith.optembed.epochs import KeptEpochs
from monolith.optembed.supernet import sizes
from monolith.streaming.journal import Positions
from monolith.tables.arguments import Matrix
from monolith.training.learner import Learner
from monolith.training.start import FOLDER, About, write_start


class Found(msgspec.Struct, frozen=True):
    """What the search found; the kept ids lie beside it."""

    widths: dict[str, int]
    rows: dict[str, int]
    bytes: int
    cut: float
    score: float
    thresholds: dict[str, float]  # as learnt, plus the cut: sizes of the supernet's rows
    small_sizes: dict[str, float]  # of the kept rows in the supernet, as `small_size` has it
    full_rows: dict[str, int]
    full_bytes: int  # of tables with all these rows and columns
    full_score: float  # of the supernet


class TableOutcome(msgspec.Struct, frozen=True):
    """One table, before and after."""

    name: str
    full_rows: int
    rows: int
    dim: int
    width: int
    bytes: int
    threshold: float  # of the online job
    small: int  # rows that are not above it now: they go if training does not move them


class Outcome(msgspec.Struct, frozen=True):
    """The result of all stages, as it stands in ``outcome.json``."""

    metric: str
    full_score: float  # of the supernet, rows masked, full width; on the validation part, as all scores
    found_score: float  # of the supernet with the widths and rows that were found
    score: float  # of the retrained model
    full_bytes: int
    bytes: int
    tables: list[TableOutcome]


def thresholds_of(found: Found, learner: Learner) -> dict[str, float]:
    """Thresholds for the retrained rows: the learnt ones, scaled as small rows have changed in size.

    A learnt threshold is below the size of every kept row, so of retrained rows a scaled one is above one in twenty.
    """
    result = {}
    for name, threshold in found.thresholds.items():
        now, then = small_size(learner.tables[name].published()[name].rows()[1]), found.small_sizes[name]
        result[name] = max(0.0, threshold * (now / then if then > 0 else 1.0))
    return result


def small_size(rows: Matrix) -> float:
    """The size that one in twenty of ``rows`` does not exceed; 0 of none."""
    return float(np.quantile(sizes(rows), 0.05, method="lower")) if len(rows) else 0.0


def outcome_of(job: JobConfig, found: Found, epochs: KeptEpochs) -> Outcome:
    """Before and after. Call it when the retrained model is in memory."""
    tables = []
    thresholds = thresholds_of(found, epochs.learner)
    dims = {table.name: table.dim for table in job.tables}
    for name, threshold in thresholds.items():
        table = epochs.learner.tables[name]
        _, values = table.published()[name].rows()
        small = int((sizes(values) <= threshold).sum())
        numbers = (found.full_rows[name], len(values), dims[name], found.widths[name], table.num_bytes())
        tables.append(TableOutcome(name, *numbers, threshold, small))
    total = sum(table.bytes for table in tables)
    scores = (found.full_score, found.score, epochs.best_score)
    return Outcome(epochs.metric, *scores, found.full_bytes, total, tables)


def write_jobs(job_file: Path, sets: list[str], folder: Path, outcome: Outcome) -> dict[str, JobConfig]:
    """Write ``serving.yaml`` and ``online.yaml`` into ``folder``: the job with what was found."""
    return {name: _write_job(job_file, sets, folder, outcome, name) for name in ("serving", "online")}


def _write_job(job_file: Path, sets: list[str], folder: Path, outcome: Outcome, name: str) -> JobConfig:
    document = Document(job_file.read_text(encoding="utf-8"), str(job_file))
    for option in [*sets, f"state={folder.absolute() / name}"]:
        document.set(option)
    own = {table.name: table for table in outcome.tables}
    for table in document.data["tables"]:
        if table["name"] in own:
            found = own[table["name"]]
            table["width"] = found.width
            table |= {"threshold": found.threshold} if name == "online" else {"admission": {"kind": "never"}}
            if name == "serving":
                for key in ("expiry", "eviction", "per_feature"):
                    table.pop(key, None)
    path = folder / f"{name}.yaml"
    text = f"# Of `monolith optembed`: {_MEANING[name]}\n{yaml.safe_dump(document.data, sort_keys=False)}"
    write_durably(path, text.encode())
    return load_job(path)


_MEANING = {
    "serving": "the rows that were found, and no others.",
    "online": "rows come by admission, and go if they are small when their probation is over.",
}


def write_states(jobs: Mapping[str, JobConfig], epochs: KeptEpochs, positions: Positions) -> None:
    """Make the retrained model the start of each job's run; a `last` part is learnt once before."""
    if isinstance(epochs.job.fit.validation, LastPart):
        epochs.learn_validation()
    about = About(f"monolith optembed, epoch {epochs.best_epoch} by {epochs.metric}", positions)
    for job in jobs.values():
        shutil.rmtree(Path(job.state) / FOLDER, ignore_errors=True)  # of a call that was killed
        write_start(Path(job.state), job, epochs.learner, about)
