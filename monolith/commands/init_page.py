"""The job file that `monolith init` writes: every setting it chose, with what in the sample it was chosen by."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import yaml

from monolith.commands.init_columns import Column
from monolith.config.reference import as_yaml

DIM = 17  # a weight and 16 factors, as the model deepfm takes them
MANY = 1000  # different ids from which on a table's rules are worth a thought
MUCH_ONCE = 0.3  # share of ids that are there once, likewise
_NO_NAME = re.compile(r"[^A-Za-z0-9_.-]")


@dataclass
class Page:
    """What goes into the job file."""

    name: str
    origin: list[str]  # comment lines on where it was made from
    input: list[tuple[str, Any, str]]  # key, value, comment
    columns: list[Column]
    left_out: dict[str, str]  # column -> why
    tasks: list[tuple[str, str]]  # name, loss
    join: list[tuple[str, Any, str]] = field(default_factory=list)
    group_by: str | None = None
    span_s: float = 0.0  # of the times in the sample
    folder: str = ""  # of the files that the run makes


def job_name(text: str) -> str:
    """``text`` as a name that jobs and tables may have."""
    return _NO_NAME.sub("_", text).lstrip("_.-") or "job"


def table_names(columns: list[Column]) -> dict[str, str]:
    """Feature -> the name of its table, each once."""
    names: dict[str, str] = {}
    for column in columns:
        if column.is_ids:
            name = job_name(column.name)
            while name in names.values():
                name += "_"
            names[column.name] = name
    return names


def page_text(page: Page) -> str:
    """The job file."""
    return "\n".join(_lines(page)) + "\n"


def _lines(page: Page) -> Iterator[str]:
    yield from (f"# {line}" for line in page.origin)
    yield "# Every key: docs/job.md. What the job would do: monolith check FILE"
    yield f"name: {_word(page.name)}"
    yield ""
    yield "input:"
    yield from (_entry(key, value, comment) for key, value, comment in page.input)
    if page.join:
        yield ""
        yield "join:"
        yield from (_entry(key, value, comment) for key, value, comment in page.join)
    yield ""
    yield "labels:"
    for task, loss in page.tasks:
        what = "0 and 1: predicts a probability" if loss == "log" else "any number: predicts a number"
        yield f"  - {{name: {_word(task)}, loss: {loss}}} # {what}"
    yield ""
    yield from _tables(page)
    yield ""
    yield from _features(page)
    yield from _rest(page)


def _tables(page: Page) -> Iterator[str]:
    yield "# One table a feature of ids: column 0 is the first-order weight, the others are the factors."
    yield "tables:"
    names = table_names(page.columns)
    for column in page.columns:
        if column.is_ids:
            yield f"  - name: {_word(names[column.name])} # {_counted(column)}"
            yield f"    dim: {DIM}"
            if names[column.name] != column.name:
                yield f"    features: [{_word(column.name)}]"
            yield from _suggestions(column, page.span_s)
    if not names:
        yield "  - name: hour # no column holds ids; the hour of the event is one"
        yield f"    dim: {DIM}"


def _counted(column: Column) -> str:
    where = "in bags" if column.is_bag else f"in {column.rows - column.missing:,} rows"
    return f"{column.distinct:,} ids {where}, {column.once_share:.0%} of them once"


def _suggestions(column: Column, span_s: float) -> Iterator[str]:
    if column.distinct < MANY:
        return
    if column.once_share >= MUCH_ONCE:
        yield "    # admission: {kind: min_count, count: 2} # a row for an id from its second occurrence on"
    days = max(7, round(span_s / 86_400))
    yield f"    # expiry: {{kind: idle, ttl_s: {days * 86_400}}} # {days} days without the id, and its row goes"
    limit = _round_up(column.distinct * 10)
    yield f"    # eviction: {{kind: lfu, max_rows: {limit}}} # a limit, at which the rarest go"


def _round_up(number: int) -> int:
    return int(-(-number // 10 ** (len(str(number)) - 1)) * 10 ** (len(str(number)) - 1))


def _features(page: Page) -> Iterator[str]:
    lines = [line for column in page.columns for line in _feature(column)]
    if not table_names(page.columns):
        lines.append("  - {name: hour, type: hour}")
    if lines:
        yield "# A feature that is not listed is a single integer."
        yield "features:"
        yield from lines
    else:
        yield "# Every feature is a single integer: an id."
        yield "features: []"
    for name, why in page.left_out.items():
        yield f"  # {' '.join(name.split())}: left out ({why})"


def _gaps(column: Column) -> Iterator[str]:
    """Which rows have no value, or none that can be used."""
    if column.missing:
        yield f"missing in {column.missing / column.rows:.1%} of the rows"
    if column.odd:
        yield f"{column.odd:,} of {column.rows:,} are of another type, and refused with their records"


def _feature(column: Column) -> Iterator[str]:
    name = _word(column.name)
    own = ", missing: own_row" if column.missing and not column.is_bag else ""
    said = "; ".join(_gaps(column))
    gaps = f" # {said}" if said else ""
    if column.kind == "int" and column.odd and not own:
        yield f"  # {name}: {said}"
    elif column.kind == "int" and own:
        yield f"  - {{name: {name}, type: int{own}}}{gaps}"
    elif column.kind == "string":
        yield f"  - {{name: {name}, type: string{own}}}{gaps}"
    elif column.is_bag:
        kind = "int" if column.kind == "ints" else "string"
        yield f"  - {{name: {name}, type: {kind}, bag: true}}{gaps}"
    elif column.kind == "bool":
        yield f"  - {{name: {name}, type: bool}} # dense: 0 or 1{gaps.replace(' #', ';')}"
    elif column.kind == "vector":
        yield f"  - {{name: {name}, type: float, width: {column.width}}}{gaps}"
    elif column.kind == "float":
        first = "{kind: log1p}, " if column.is_skewed else ""
        numbers = f"dense: from {column.low:g} to {column.high:g} in the sample"
        yield f"  - name: {name} # {numbers}{gaps.replace(' #', ';')}"
        yield "    type: float"
        yield f"    transforms: [{first}{{kind: standardize, mean: {column.mean!r}, std: {column.std!r}}}]"


def _rest(page: Page) -> Iterator[str]:
    yield ""
    yield "model: {kind: deepfm, hidden: [128, 64]}"
    yield "dense_optimizer: {kind: adam, lr: 0.001}"
    yield ""
    yield "train:"
    yield "  batch_size: 64 # samples an optimizer step; less learns faster of each, more is quicker"
    yield "  step_records: 256"
    yield "  window_samples: 5000 # of the metrics' newest window"
    if page.group_by is not None:
        yield f"  group_by: {_word(page.group_by)} # whose AUC is within-user"
    yield ""
    yield f"state: {page.folder}/state # journal and snapshots: where a killed run goes on from"
    yield f"store: lmdb://{page.folder}/store # what `monolith serve` reads; or redis://:${{REDIS_PASSWORD}}@HOST:6379/0"


def _entry(key: str, value: Any, comment: str) -> str:
    return f"  {key}: {as_yaml(value)}" + (f" # {comment}" if comment else "")


def _word(name: str) -> str:
    """``name`` as YAML, also between braces; never read as a reference."""
    is_plain = re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]*", name) and yaml.safe_load(name) == name
    return name if is_plain else json.dumps(name.replace("${", "$${"), ensure_ascii=False)


def day(time_ms: float) -> str:
    """The day of a time, for comments."""
    try:
        return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d")
    except (ValueError, OverflowError, OSError):
        return f"{time_ms:.0f} ms"
