"""What the tasks of a job must satisfy together, and with the streams that they learn from."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import parse_qs, urlsplit

from monolith.config.document import Keys, nearest
from monolith.config.job import JobConfig
from monolith.config.labels import TaskConfig, gathers, makers

MOST_JOINED_TASKS = 16  # the joiner has as many bits for what came
LARGEST_WEIGHT = 1_000_000  # of a label; labels are not larger either

Found = tuple[Keys, str]


def broken_label_rules(job: JobConfig) -> Iterator[Found]:
    """Every rule on `labels` that ``job`` breaks, but for those on names."""
    if not job.labels:
        yield ("labels",), "the list is empty; a job learns at least one task, leave it out for one binary label"
    if job.input.samples is None:
        yield from _joined(job)
    else:
        yield from _brought(job)
    yield from _parquet_columns(job)


def _brought(job: JobConfig) -> Iterator[Found]:
    """Samples bring their labels, so no action makes one."""
    for i, task in enumerate(job.labels):
        for key in ("actions", "value", "default"):
            if getattr(task, key) not in ([], None):
                text = f"input.samples brings the labels of {task.name!r}; only where features are joined with actions "
                yield ("labels", i, key), text + f"does a task say which make its label; leave {key} out"


def _joined(job: JobConfig) -> Iterator[Found]:
    """What makes the label of each task where features are joined with actions."""
    if len(job.labels) > MOST_JOINED_TASKS:
        text = f"{len(job.labels)} tasks, but features that are joined with actions have at most {MOST_JOINED_TASKS}"
        yield ("labels",), text
    for i, task in enumerate(job.labels):
        for key, text in _made(task, alone=len(job.labels) == 1):
            yield ("labels", i, key), text
    if job.join.positive_actions and any(makers(task) for task in job.labels):
        named = ", ".join(job.join.positive_actions)
        text = f"labels say which actions make them, so nothing reads positive_actions ({named}); leave it out"
        yield ("join", "positive_actions"), text
    if gathers(job.labels) and job.join.negative_rate < 1 / LARGEST_WEIGHT:
        text = f"saw {job.join.negative_rate:g}: a negative that is kept would weigh more than {LARGEST_WEIGHT:,}"
        yield ("join", "negative_rate"), f"{text}; allowed: {1 / LARGEST_WEIGHT:g} to 1"


def _made(task: TaskConfig, *, alone: bool) -> Iterator[tuple[str, str]]:
    if task.actions and task.value is not None:
        yield "value", f"{task.name!r} has both actions, which make a label of 1, and value: give one of the two"
    elif not (makers(task) or alone):
        text = f"nothing makes the label of {task.name!r}: features are joined with actions, so each of several tasks "
        yield "name", text + "says which; give actions: [ACTION, ...], or value: ACTION for the number that it carries"
    if "" in makers(task):
        yield ("actions" if task.actions else "value"), f"{task.name!r} names an action without a name"
    if task.default is not None:
        yield from _default(task)


def _default(task: TaskConfig) -> Iterator[tuple[str, str]]:
    if task.value is None:
        yield "default", f"{task.name!r} has no value that could be missing: without an action its label is 0"
    elif task.loss == "log" and task.default not in (0, 1):
        yield "default", f"saw {task.default:g}; a label of loss log is 0 or 1"
    elif not abs(task.default or 0.0) <= LARGEST_WEIGHT:
        yield "default", f"saw {task.default:g}; allowed: -{LARGEST_WEIGHT:,} to {LARGEST_WEIGHT:,}"


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
