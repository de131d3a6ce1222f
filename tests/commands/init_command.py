"""`monolith init`, run in this process, and a job that all of its data must fit."""

from __future__ import annotations

from pathlib import Path

from monolith.cli import parser
from monolith.config import JobConfig, load_job
from monolith.streaming.steps import StepReader

START_S = 1_700_000_000


ROWS = 400


def init(*words: object) -> int:
    args = parser().parse_args(["init", *map(str, words)])
    return args.run(args)


def made(*words: object) -> JobConfig:
    """The job that init makes of ``data.parquet``; every row of the file fits it."""
    assert init("--from", "data.parquet", "--out", "job.yaml", "--force", *words) == 0
    job = load_job("job.yaml")
    check_fits(job, ROWS)
    return job


def check_fits(job: JobConfig, samples: int) -> None:
    count = 0
    with StepReader.open(job, Path("journal")) as steps:
        while True:
            step = steps.next(1.0)
            count += len(step.batch) if step is not None else 0
            if step is not None and step.ended:
                break
        assert steps._letters.counts == {}
    assert count == samples
    for entry in Path("journal").iterdir():
        entry.unlink()
    Path("journal").rmdir()
