"""A sample of somebody's data as columns: of a Parquet file or folder, or of a stream of events.

Times of Parquet are left as they lie there: numbers as they are, dates and timestamps as ms since the epoch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monolith.errors import ConfigError, CorruptError, EventError

if TYPE_CHECKING:
    import pyarrow as pa

    from monolith.events import ActionEvent, Event, FeatureEvent, Record, SampleEvent

MOST_PARTS = 10  # places of a Parquet file or folder that a sample is taken from


@dataclass
class Sample:
    """Rows or events as columns."""

    url: str  # what they were read from, as a person names it
    name: str  # a name for the job
    rows: int
    total: int  # rows or records there are
    columns: dict[str, list[Any]]  # name -> a value a row, None where it is missing
    moments: set[str] = field(default_factory=set)  # columns that hold dates or timestamps
    unusable: dict[str, str] = field(default_factory=dict)  # column -> of what type it is, which no feature can have


@dataclass
class EventSample(Sample):
    """A sample of events; ``columns`` are their features."""

    kind: str = "feature"  # or "sample"
    times: list[int] = field(default_factory=list)  # as the events have them
    labels: dict[str, list[Any]] = field(default_factory=dict)  # task -> labels; the one task is called "label"
    keys: dict[tuple[str, str], int] = field(default_factory=dict)  # (request id, item id) -> time, of features
    undecoded: str = ""  # what is wrong with the first event that is none


@dataclass
class ActionSample:
    """What users did."""

    url: str
    rows: int
    names: Counter[str]
    times: dict[tuple[str, str], tuple[int, str]]  # (request id, item id) -> time and name of the first action


def parquet_sample(path: Path, rows: int) -> Sample:
    """About ``rows`` rows from up to `MOST_PARTS` places of the file or folder, in its order."""
    import pyarrow as pa

    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise ConfigError(f"{path}: there is no such file, nor a folder with *.parquet files")
    try:
        batches, total = _batches(files, rows)
    except (pa.ArrowInvalid, OSError) as error:
        raise CorruptError(f"{path} cannot be read as Parquet: {error}") from None
    sample = Sample(str(path), path.stem, sum(batch.num_rows for batch in batches), total, {})
    if not sample.rows:
        raise ConfigError(f"{path} has no rows: a job file is made from data that is there")
    table = pa.Table.from_batches(batches)
    for name in table.column_names:
        _add_column(sample, name, table.column(name))
    return sample


def _batches(files: list[Path], rows: int) -> tuple[list[pa.RecordBatch], int]:
    import pyarrow.parquet as pq

    opened = [pq.ParquetFile(file) for file in files]
    groups = [(file, i) for file in opened for i in range(file.num_row_groups)]
    total = sum(file.metadata.num_rows for file in opened)
    step = max(1, -(-len(groups) // MOST_PARTS)) if total > rows else 1
    chosen = groups[::step]
    batches = []
    for file, group in chosen:
        most = rows if total <= rows else max(1, rows // len(chosen))
        batches.append(next(file.iter_batches(batch_size=most, row_groups=[group]), None))
    return [batch for batch in batches if batch is not None], total


def _add_column(sample: Sample, name: str, column: pa.ChunkedArray) -> None:
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    inner = kind.value_type if pa.types.is_list(kind) or pa.types.is_large_list(kind) else kind
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        sample.moments.add(name)
        column = pc.cast(column, pa.timestamp("ms"), safe=False).cast(pa.int64())
    elif not _is_value(inner):
        sample.unusable[name] = str(kind)
        return
    sample.columns[name] = column.to_pylist()


def _is_value(kind: pa.DataType) -> bool:
    import pyarrow as pa

    checks = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_string)
    return any(check(kind) for check in (*checks, pa.types.is_large_string))


def event_sample(url: str, rows: int) -> EventSample | ActionSample:
    """The first ``rows`` events of the stream. Raises ConfigError where none of its records is an event."""
    from monolith.events import ActionEvent
    from monolith.secrets import masked

    events, total, fault = _events(url, rows)
    place = masked(url).partition("?")[0]
    if not events:
        raise ConfigError(f"{place}: {fault or 'there are no records'}: a job file is made from events that are there")
    if isinstance(events[0], ActionEvent):
        return _actions(place, [event for event in events if isinstance(event, ActionEvent)])
    return _features(url, place, [event for event in events if not isinstance(event, ActionEvent)], total, fault)


def _events(url: str, rows: int) -> tuple[list[Event], int, str]:
    from monolith.commands.inspect_stream import answering
    from monolith.streaming.codec import decode
    from monolith.streaming.source import open_source

    events: list[Event] = []
    fault = ""
    with closing(answering(open_source, url)) as source:
        total = source.lag()
        for record in _records(source, rows):
            try:
                events.append(decode(record.value or b""))
            except EventError as error:
                fault = fault or f"record {record.partition}:{record.offset} is no event: {error}"
    return events, total, fault


def _records(source: Any, rows: int) -> Iterator[Record]:
    while rows > 0 and source.lag() and (records := source.poll(min(rows, 5000), 5.0)):
        yield from records
        rows -= len(records)


def _actions(place: str, actions: list[ActionEvent]) -> ActionSample:
    times: dict[tuple[str, str], tuple[int, str]] = {}
    for action in actions:
        times.setdefault((action.request_id, action.item_id), (action.event_time_ms, action.action))
    return ActionSample(place, len(actions), Counter(action.action for action in actions), times)


def _features(url: str, place: str, events: list[FeatureEvent | SampleEvent], total: int, fault: str) -> EventSample:
    names = dict.fromkeys(name for event in events for name in event.features)
    columns = {name: [event.features.get(name) for event in events] for name in names}
    sample = EventSample(url, place.rstrip("/").rpartition("/")[2], len(events), total, columns, undecoded=fault)
    sample.times = [event.event_time_ms for event in events]
    from monolith.events import SampleEvent

    sample.kind = "sample" if isinstance(events[0], SampleEvent) else "feature"
    for event in events:
        if isinstance(event, SampleEvent):
            labels = event.label if isinstance(event.label, dict) else {"label": event.label}
            for task, label in labels.items():
                sample.labels.setdefault(task, []).append(label)
        else:
            sample.keys.setdefault((event.request_id, event.item_id), event.event_time_ms)
    return sample
