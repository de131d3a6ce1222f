"""What the tasks of a job must satisfy together, and with the streams that they learn from."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import parse_qs, urlsplit

from monolith.config.document import Keys, nearest
from monolith.config.job import JobConfig

Found = tuple[Keys, str]


def broken_label_rules(job: JobConfig) -> Iterator[Found]:
    """Every rule on `labels` that ``job`` breaks, but for those on names."""
    if not job.labels:
        yield ("labels",), "the list is empty; a job learns at least one task, leave it out for one binary label"
    if len(job.labels) > 1 and job.input.samples is None:
        yield (
            ("labels",),
            f"{len(job.labels)} tasks, but features are joined with actions, which label one task; allowed: one task, "
            "or input.samples with a label for each",
        )
    yield from _parquet_columns(job)


def _parquet_columns(job: JobConfig) -> Iterator[Found]:
    """The label columns that a Parquet URL names must be those of tasks: else no row could be used."""
    url, tasks = job.input.samples or "", [task.name for task in job.labels]
    if not url.startswith("parquet://"):
        return
    for option in ("label", "weight"):
        text = parse_qs(urlsplit(url).query).get(option, [""])[-1]
        if not text:
            continue
        named = [part.partition(":")[0] for part in text.split(",")]
        if len(named) == 1 and ":" not in text:
            if len(tasks) > 1:
                yield (
                    ("input", "samples"),
                    f"{option}={text} names one column, the job has the tasks {', '.join(tasks)}; "
                    f"write {option}=TASK:COLUMN,TASK:COLUMN",
                )
            continue
        for name in named:
            if name not in tasks:
                text = f"{option}= has a column for the task {name!r}{nearest(name, tasks)}; tasks: {', '.join(tasks)}"
                yield ("input", "samples"), text
