"""What a job's streams hold: partitions, records, times, and whether a sample of them fits the job."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from monolith.commands.check import Findings
from monolith.commands.inspect import moment
from monolith.commands.inspect_stream import answering
from monolith.config import JobConfig
from monolith.config.references import check_late
from monolith.errors import ConfigError, EventError, MonolithError, UnavailableError
from monolith.events import ActionEvent, FeatureEvent, Record, SampleEvent
from monolith.secrets import scheme
from monolith.streaming.codec import FeatureDecoder, decode
from monolith.streaming.marks import read_marks
from monolith.streaming.source import SINK_SCHEMES, MarkedSource, Source, open_source, parse_url

Stream = Literal["features", "actions", "samples"]
Key = tuple[str, str]  # request id, item id

LAST_S = 2.0  # how long the last record of a partition is waited for


@dataclass
class Seen:
    """A sample of one stream."""

    records: int = 0
    reasons: Counter[str] = field(default_factory=Counter)  # of records that do not fit the job
    example: str = ""  # of the first of them
    features: set[str] = field(default_factory=set)  # that some event carried
    actions: Counter[str] = field(default_factory=Counter)
    times: dict[Key, int] = field(default_factory=dict)  # in the events' unit
    homes: dict[str, int] = field(default_factory=dict)  # partition of each request's first record
    partitions: list[int] = field(default_factory=list)  # of the stream
    oldest_ms: int | None = None  # of the records themselves


def check_streams(job: JobConfig, found: Findings, records: int) -> None:
    """Say what each stream holds, and what of it does not fit the job."""
    found.show("streams")
    check_late(job, "input")
    seen: dict[str, Seen] = {}
    for name in ("features", "actions", "samples"):
        url = getattr(job.input, name)
        if url is not None:
            sample = _check_stream(job, name, url, found, records)
            if sample is not None and sample.records:
                seen[name] = sample
                _check_fit(job, name, sample, found)
    if job.input.dead_letters is not None:
        _check_sink(job.input.dead_letters, found)
    _check_partitions(job, seen, found)
    _check_features(job, seen, found)
    _check_window(job, seen, found)


def _check_stream(job: JobConfig, name: Stream, url: str, found: Findings, records: int) -> Seen | None:
    shown = parse_url(url).name
    try:
        source = answering(open_source, url)
    except UnavailableError as error:
        found.show(f"  {name}: {shown} does not answer")
        found.fault(f"input.{name}: {error}")
        return None
    except ConfigError as error:
        if not job.input.follow or scheme(url) == "parquet" or not _may_come(url):
            found.show(f"  {name}: {shown} cannot be opened")
            found.fault(f"input.{name}: {error}")
        else:
            found.show(f"  {name}: {shown} is not there")
            found.warn(f"input.{name}: {shown} is not there yet: the job would wait for it")
        return None
    with closing(source):
        found.show(f"  {name}: {shown}: {_extent(source)}")
        _check_same(job, name, source, found)
        sample = _sampled(job, name, source, records)
        ends = _last_moment(source, sample)
        if not sample.records and (gone := sum(source.position().values())):
            found.warn(
                f"input.{name}: the stream is empty, {gone:,} records of it are gone: what keeps them too briefly?"
            )
        if sample.records:
            found.show(f"    records of {moment(sample.oldest_ms or 0)} to {ends}")
            found.show(f"    of the first {sample.records:,}, {sample.records - sample.reasons.total():,} fit the job")
        if parse_url(url).scheme == "kafka":
            _check_retention(job, name, url, sample, found)
        return sample


def _check_same(job: JobConfig, name: Stream, source: Source, found: Findings) -> None:
    """Whether it is the stream that the run in the state folder read, and not one that was made anew."""
    known = read_marks(Path(job.state)).get(name)
    if known is None or known.source != source.name or not isinstance(source, MarkedSource):
        return
    if source.mark() in (None, known.mark):
        return
    text = f"input.{name}: {source.name} was made anew since the run in {job.state} read it"
    if job.input.on_data_loss == "skip":
        found.warn(f"{text}: it would be read from its beginning")
    else:
        found.fault(f"{text}: the run would stop; input.on_data_loss: skip reads it from its beginning")


def _may_come(url: str) -> bool:
    """Whether the URL could name a stream some day, and nothing is wrong with it but that there is none."""
    from monolith.streaming.log import log_exists

    parsed = parse_url(url)
    if parsed.scheme == "log":
        return not log_exists(Path(parsed.place))
    return parsed.scheme in ("kafka", "memory")


def _extent(source: Source) -> str:
    begins, ends = source.position(), source.end_position()
    total = sum(ends[p] - begins[p] for p in ends)
    gone = sum(begins.values())
    lost = f", {gone:,} before them are gone" if gone else ""
    return f"{total:,} records in {len(ends)} partition{'s' if len(ends) != 1 else ''}{lost}"


def _sampled(job: JobConfig, name: Stream, source: Source, records: int) -> Seen:
    seen, decoder = Seen(partitions=source.partitions()), FeatureDecoder(job)
    for record in _first(source, records):
        seen.records += 1
        seen.oldest_ms = min(record.event_time_ms, seen.oldest_ms if seen.oldest_ms is not None else 2**62)
        try:
            decoder.decode(record, name)
        except EventError as error:
            seen.reasons[error.reason] += 1
            seen.example = seen.example or f"record {record.partition}:{record.offset}: {error}"
        _note(record, seen)
    return seen


def _first(source: Source, count: int) -> Iterator[Record]:
    while count > 0 and source.lag() and (records := source.poll(min(count, 1000), 5.0)):
        yield from records
        count -= len(records)


def _note(record: Record, seen: Seen) -> None:
    try:
        event = decode(record.value or b"")
    except EventError:
        return
    if isinstance(event, FeatureEvent | SampleEvent):
        seen.features |= event.features.keys()
    if isinstance(event, ActionEvent):
        seen.actions[event.action] += 1
    seen.times.setdefault((event.request_id, event.item_id), event.event_time_ms)
    seen.homes.setdefault(event.request_id, record.partition)


def _last_moment(source: Source, seen: Seen) -> str:
    """The newest of the partitions' last records, as far as they are read in time."""
    if not seen.records:
        return ""
    ends, begins = source.end_position(), source.position()
    try:
        source.seek({p: end - 1 for p, end in ends.items() if end > 0})
        last = source.poll(len(ends), LAST_S)
    except MonolithError:
        last = []
    finally:
        source.seek(begins)
    return moment(max(record.event_time_ms for record in last)) if last else "an end that could not be read"


def _check_fit(job: JobConfig, name: str, seen: Seen, found: Findings) -> None:
    bad = seen.reasons.total()
    if not bad:
        return
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in seen.reasons.most_common(3))
    text = (
        f"input.{name}: {bad:,} of the first {seen.records:,} records would be dead letters ({reasons}); {seen.example}"
    )
    if bad == seen.records or bad > job.input.max_reject_share * seen.records:
        found.fault(text)
    else:
        found.warn(text)


def _check_sink(url: str, found: Findings) -> None:
    parsed = parse_url(url, SINK_SCHEMES)
    found.show(f"  dead letters: {parsed.name}")
    if parsed.scheme != "kafka":
        return
    try:
        answering(open_source, url).close()
    except ConfigError:
        if not parsed.options:
            found.warn(
                f"input.dead_letters: there is no topic {parsed.name}: make it, or give ?partitions=1 in the URL"
            )
    except UnavailableError as error:
        found.warn(f"input.dead_letters: {error}; letters would wait")


def _check_partitions(job: JobConfig, seen: dict[str, Seen], found: Findings) -> None:
    """Whether a job that says so has all records of a request in partitions of one number."""
    features, actions = seen.get("features"), seen.get("actions")
    if not job.input.co_partitioned or features is None or actions is None:
        return
    if features.partitions != actions.partitions:
        _tell_partitions(job, features.partitions, actions.partitions, found)
        return
    both = features.homes.keys() & actions.homes.keys()
    if crossed := [request for request in both if features.homes[request] != actions.homes[request]]:
        request = min(crossed)
        found.fault(
            f"input.co_partitioned: {len(crossed):,} of {len(both):,} requests have features and actions in partitions "
            f"of different numbers (such as {request!r}: {features.homes[request]} and {actions.homes[request]}), and "
            f"would make no label: key both streams by request id, or set it to false"
        )


def _tell_partitions(job: JobConfig, features: list[int], actions: list[int], found: Findings) -> None:
    from monolith.training.start import has_begun

    which = f"input.co_partitioned: features has the partitions {features}, actions {actions}"
    if has_begun(Path(job.state)):
        found.warn(f"{which}: the run would wait with those that only one has; add them to the other, too")
    else:
        found.fault(f"{which}: give both the same number, or set it to false")


def _check_features(job: JobConfig, seen: dict[str, Seen], found: Findings) -> None:
    """Features of the job that no event of the sample carries."""
    sample = seen.get("features") or seen.get("samples")
    if sample is None:
        return
    read = {*job.feature_names(), *(feature.name for feature in job.features)}
    carried = {name for name in read if job.feature(name).type not in ("hour", "weekday")}
    if missing := sorted(carried - sample.features):
        found.warn(
            f"none of the first {sample.records:,} events carries {', '.join(missing)}: they would count as missing "
            f"everywhere. The events carry {', '.join(sorted(sample.features)) or 'nothing'}"
        )


def _check_window(job: JobConfig, seen: dict[str, Seen], found: Findings) -> None:
    """Actions that come behind the window, and ones that make no positive."""
    features, actions = seen.get("features"), seen.get("actions")
    if job.input.samples is not None:
        return
    if job.join.window_s < job.train.step_linger_s:
        linger = f"train.step_linger_s ({job.train.step_linger_s:g})"
        found.warn(f"join.window_s ({job.join.window_s:g}) is shorter than {linger}")
    if actions is None:
        return
    wanted = set(job.join.positive_actions)
    if wanted and not wanted & actions.actions.keys():
        found.warn(
            f"no action of the first {actions.records:,} is in join.positive_actions ({', '.join(sorted(wanted))}); "
            f"there are {', '.join(sorted(actions.actions))}: every sample would be a negative"
        )
    if features is not None:
        _check_delays(job, features, actions, found)


def _check_delays(job: JobConfig, features: Seen, actions: Seen, found: Findings) -> None:
    per_s = {"s": 1, "ms": 1e3, "us": 1e6, "ns": 1e9}[job.input.time_unit]
    delays = sorted(
        (actions.times[key] - shown) / per_s for key, shown in features.times.items() if key in actions.times
    )
    if not delays:
        found.warn(
            f"none of the first {actions.records:,} actions is of one of the first {features.records:,} events: "
            f"compare their request_id and item_id, or look at more by --records"
        )
        return
    late = sum(delay > job.join.window_s for delay in delays)
    usual = delays[min(len(delays) - 1, math.ceil(len(delays) * 0.99))]
    found.show(
        f"  join: 99 % of {len(delays):,} actions come within {usual:,.1f} s, the window is {job.join.window_s:g} s"
    )
    if late > len(delays) / 100:
        found.warn(
            f"{late / len(delays):.0%} of the actions come after join.window_s ({job.join.window_s:g}): their features "
            f"would be negatives first; {math.ceil(usual * 1.5)} would hold 99 %"
        )


def _check_retention(job: JobConfig, name: str, url: str, seen: Seen, found: Findings) -> None:
    from monolith.streaming.kafka_place import place_of
    from monolith.streaming.kafka_topics import retention_of

    retention = retention_of(place_of(parse_url(url)))
    if retention is None or retention.max_age_ms is None:
        return
    found.show(f"    kept for {retention.max_age_ms / 3_600_000:,.1f} h")
    if seen.oldest_ms is not None and retention.takes(seen.oldest_ms):
        found.warn(
            f"input.{name}: the topic keeps records for {retention.max_age_ms:,} ms by event time, and has older ones: "
            f"the broker removes them unread; set retention.ms=-1 or message.timestamp.type=LogAppendTime on it"
        )
    elif retention.max_age_ms < job.join.window_s * 1000:
        found.warn(f"input.{name}: the topic keeps records for less time than join.window_s ({job.join.window_s:g})")
