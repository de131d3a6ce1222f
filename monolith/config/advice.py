"""What is allowed in a job, but hardly meant: said once, when it starts."""

from __future__ import annotations

from collections.abc import Iterator

from monolith.config.job import JobConfig


def advice(job: JobConfig) -> Iterator[str]:
    """One sentence for each thing, with the keys to change."""
    train = job.train
    if train.batch_size > train.step_records:
        yield (
            f"train.batch_size ({train.batch_size}) is above train.step_records ({train.step_records}): a batch never "
            f"reaches over a step, so none will have more samples than a step makes of its records. Raise "
            f"train.step_records to at least {train.batch_size} (to more where features and actions are joined, which "
            f"makes fewer samples than records), or lower train.batch_size"
        )
