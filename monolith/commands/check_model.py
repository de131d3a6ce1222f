"""Whether the device is there, and a network of the user's own can be imported, built and used.

Our networks are checked as the job file is read.
"""

from __future__ import annotations

from monolith.commands.check import Findings
from monolith.config import JobConfig
from monolith.config.model_rules import is_own


def check_device(job: JobConfig, found: Findings) -> None:
    """Look for a GPU where the job has one. Raises ConfigError where it is not there."""
    if job.train.device == "cpu":
        return
    from monolith.training.devices import device_of, kind_of_device

    found.show(f"device {job.train.device}: {kind_of_device(device_of(job.train.device))}")


def check_model(job: JobConfig, found: Findings) -> None:
    """Build and try the model of a job that names a class of the user's. Raises ConfigError where that fails."""
    if not is_own(job.model.kind):
        return
    from monolith.tables.schema import card_features
    from monolith.training.models import build_model

    tables = {table.name: table for table in job.tables}
    features = card_features(job)
    vectors = {read.output: tables[read.table].vector_width(each.name) for each in features for read in each.reads}
    dense = {each.name: each.config.width for each in features if not each.reads}
    model = build_model(job.model, vectors, dense, seed=job.seed, tasks=len(job.labels))
    weights = sum(parameter.numel() for parameter in model.parameters())
    found.show(f"model {job.model.kind}: {weights:,} weights; a batch went through it")
