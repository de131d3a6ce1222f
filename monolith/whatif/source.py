"""From the LOG of the command line to a job whose streams can be read: with a job file, or from features alone.

With a job, LOG takes the place of the job's own feature events or samples, whichever it holds; everything else stays
the job's: tables, hashing, joins, event-time rules. Without one, each named feature becomes a feature of one table, its
type is what the first events hold, and each feature event is a sample by itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec
import yaml

from monolith.config import InputConfig, JobConfig, TableConfig, TaskConfig, parse_job
from monolith.config.document import nearest
from monolith.errors import ConfigError, EventError
from monolith.events import ActionEvent, Event, FeatureEvent, FeatureValue, Record, SampleEvent
from monolith.streaming.codec import decode
from monolith.streaming.joiner import OnShown
from monolith.streaming.journal import Journal
from monolith.streaming.log import log_exists
from monolith.streaming.source import open_source
from monolith.streaming.steps import StepReader

_PEEK = 1000  # records that say what a log holds


@dataclass(frozen=True)
class Input:
    """A job whose streams are to be read; ``unjoined``: its samples are feature events."""

    job: JobConfig
    unjoined: bool = False


def with_job(job: JobConfig, log: str | None, actions: str | None) -> Input:
    """``log`` read as ``job`` would: joined with ``actions`` (else the job's) where it holds feature events.

    Without ``log`` it is the job's own. Raises ConfigError for what is no stream, or is one of actions.
    """
    streams = job.input
    if log is not None:
        url = url_of(log)
        first = _first_events(url)[0]
        kinds = {"samples": url} if isinstance(first, SampleEvent) else {"features": url}
        streams = msgspec.structs.replace(streams, **({"features": None, "samples": None} | kinds))
    if actions is not None:
        streams = msgspec.structs.replace(streams, actions=url_of(actions))
    if streams.samples is not None:
        if actions is not None:
            raise ConfigError(f"--actions {actions}: {streams.samples} holds samples, which are joined already")
        return Input(_reading(job, msgspec.structs.replace(streams, actions=None)))
    if streams.actions is None:
        return Input(_reading(job, msgspec.structs.replace(streams, features=None, samples=streams.features)), True)
    return Input(_reading(job, streams))


def without_job(log: str, table: str | None, features: Sequence[str], sets: Iterable[str]) -> Input:
    """A job of one table for ``features`` (default: the one of the table's name) over ``log``.

    Raises ConfigError as `with_job` does, and for a feature that the log's first events do not have.
    """
    url = url_of(log)
    events = _first_events(url)
    names = list(features) or ([table] if table else [])
    seen = _values(events)
    if not names:
        raise ConfigError(f"which ids? Give --feature NAME or --job JOB.yaml; {url} has {_listed(seen)}")
    for name in names:
        if name not in seen:
            close = nearest(name, list(seen))
            raise ConfigError(f"{url}: no feature {name!r} in its first {len(events):,} events{close}; {_listed(seen)}")
    plain = {
        "name": "whatif",
        "input": {"samples": url, "unknown_features": "ignore"},
        "features": [{"name": name, **_kind(seen[name])} for name in names],
        "tables": [{"name": table or names[0], "features": names, "dim": 16}],
        "labels": [{"name": name, "loss": "squared"} for name in _tasks(events)],  # takes whatever label there is
    }
    job = parse_job(yaml.safe_dump(plain, sort_keys=False), "--feature", sets)
    return Input(job, unjoined=not isinstance(events[0], SampleEvent))


def open_recorded(given: Input, journal: Path, on_shown: OnShown) -> StepReader:
    """The steps of a run of the job, as its journal has them. Raises ConfigError for the journal of other streams."""
    streams = msgspec.structs.replace(given.job.input, follow=False)
    read = {name for name in ("features", "actions", "samples") if getattr(streams, name) is not None}
    recorded = Journal(journal, read_only=True)
    try:
        first = next(recorded.read(1), None)
    finally:
        recorded.close()
    if given.unjoined or first is None or set(first.ends) != read:
        held = "no step" if first is None else f"steps of the streams {', '.join(sorted(first.ends))}"
        raise ConfigError(f"--journal {journal} holds {held}; the comparison reads {', '.join(sorted(read))}")
    return StepReader.open(_reading(given.job, streams), journal, replay_only=True, on_shown=on_shown)


def pick_table(job: JobConfig, name: str | None) -> TableConfig:
    """The job's table ``name``, or its only one. Raises ConfigError."""
    names = [table.name for table in job.tables]
    if name is None and len(names) == 1:
        name = names[0]
    for table in job.tables:
        if table.name == name and table.kind == "collisionless":
            if table.threshold is not None:
                raise ConfigError(
                    f"--table {name}: its threshold goes by the values of rows, which a comparison of rules does not "
                    f"have; say --set 'tables.*.threshold=null' to leave it out"
                )
            return table
        if table.name == name:
            raise ConfigError(
                f"--table {name} is of kind {table.kind}: rules of admission, expiry and eviction are compared of "
                f"collisionless tables; name one"
            )
    if name is None:
        raise ConfigError(f"which table of job {job.name!r}? Give --table: {', '.join(names)}")
    raise ConfigError(f"--table {name}: job {job.name!r} has no such table{nearest(name, names)}; {', '.join(names)}")


def url_of(log: str) -> str:
    """The URL of a stream that is named by a URL, or by the folder of a log. Raises ConfigError."""
    if "://" in log:
        return log
    path = Path(log)
    if log_exists(path):
        return f"log://{path}"
    if path.suffix == ".parquet" or (path.is_dir() and any(path.glob("*.parquet"))):
        raise ConfigError(f"{log}: name the columns, parquet://{log}?time=COLUMN&item=COLUMN&features=A,B")
    raise ConfigError(f"{log!r} is neither a URL (log://, parquet://, kafka://) nor the folder of a log")


def _reading(job: JobConfig, streams: InputConfig) -> JobConfig:
    return msgspec.structs.replace(job, input=streams)


def _first_events(url: str) -> list[Event]:
    """The events that show something among the first records. Raises ConfigError where there is none."""
    source = open_source(url)
    try:
        records: list[Record] = []
        while len(records) < _PEEK and source.lag() and (more := source.poll(_PEEK - len(records), 5.0)):
            records += more
    finally:
        source.close()
    events: list[Event] = []
    for record in records:
        try:
            events.append(decode(record.value or b""))
        except EventError:
            continue  # it will be counted by the comparison
    if not events:
        raise ConfigError(f"{url}: none of its first {len(records):,} records can be read as an event")
    shown: list[Event] = [event for event in events if not isinstance(event, ActionEvent)]
    if not shown:
        raise ConfigError(f"{url} holds actions: give the log of feature events or samples, and this one by --actions")
    return shown


def _values(events: Iterable[Event]) -> dict[str, list[FeatureValue]]:
    """The values of each feature, those that are missing left out."""
    found: dict[str, list[FeatureValue]] = {}
    for event in events:
        if isinstance(event, FeatureEvent | SampleEvent):
            for name, value in event.features.items():
                if value is not None:
                    found.setdefault(name, []).append(value)
    return found


def _tasks(events: Iterable[Event]) -> list[str]:
    """The tasks that samples have labels of; where they are not by task, one of any name."""
    named = [event.label for event in events if isinstance(event, SampleEvent) and isinstance(event.label, dict)]
    return list(dict.fromkeys(chain.from_iterable(named))) or [TaskConfig().name]


def _kind(values: list[FeatureValue]) -> dict[str, Any]:
    """``type`` and ``bag`` of a feature: what most of its values are."""
    bag = _most(isinstance(value, list | dict) for value in values)
    whole = chain.from_iterable(map(_are_whole, values))
    return {"type": "int" if _most(whole) else "string", "bag": bag}


def _are_whole(value: FeatureValue) -> Iterator[bool]:
    """For each id of a value, whether it is an integer; keys of a mapping are texts, integers their digits."""
    if isinstance(value, dict):
        yield from (key.removeprefix("-").isdigit() for key in value)
    else:
        yield from (isinstance(item, int) for item in (value if isinstance(value, list) else [value]))


def _most(answers: Iterable[bool]) -> bool:
    counts = Counter(answers)
    return counts[True] > counts[False]


def _listed(seen: dict[str, list[FeatureValue]]) -> str:
    return f"it has the features {', '.join(sorted(seen))}" if seen else "it has no features"
