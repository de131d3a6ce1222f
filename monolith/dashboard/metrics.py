"""What a trainer tells Prometheus. All names begin with ``monolith_trainer_``."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from monolith.events import WATERMARK_START
from monolith.training.curves import point_of
from monolith.training.status import Status

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def metrics_text(status: Status) -> bytes:
    """Everything in Prometheus's text format."""
    registry = CollectorRegistry()
    registry.register(_StatusCollector(lambda: status))
    return generate_latest(registry)


class _StatusCollector(Collector):
    def __init__(self, status: Callable[[], Status]) -> None:
        self._status = status

    def collect(self) -> Iterable[Metric]:
        status = self._status()
        yield _info(status)
        yield from _progress(status)
        yield from _streams(status)
        yield from _scores(status)
        yield from _tables(status)


def _info(status: Status) -> Metric:
    info = InfoMetricFamily("monolith_trainer", "The run that this process trains")
    info.add_metric([], {"model": status.model, "lineage": status.lineage})
    return info


def _progress(status: Status) -> Iterable[Metric]:
    yield _gauge("up", "1 while the trainer follows its streams, 0 once they have ended", float(not status.ended))
    yield _counter("steps", "Steps of the run", status.step)
    yield _counter("samples", "Samples trained since the first step of the run", status.samples)
    yield _counter("records", "Records read since the first step of the run", status.streams.records)
    yield _gauge("samples_per_second", "Samples a second, over the last seconds", status.samples_per_s)
    yield _gauge("sequence", "Newest sequence that was cut", status.sequence)
    yield _gauge("stored_sequence", "Newest sequence that the store is known to hold", status.stored_sequence)
    yield _gauge("snapshot_step", "Step of the newest snapshot", status.snapshot_step)
    yield _gauge("warnings", "Warnings about the job, see status.json", len(status.warnings))
    if status.freshness_ms is not None:
        yield _gauge("freshness_seconds", "Ingestion to store, median of the newest delta", status.freshness_ms / 1e3)


def _streams(status: Status) -> Iterable[Metric]:
    streams = status.streams
    if streams.lag is not None:
        yield _gauge(
            "lag_records", "Records in the streams that no step has taken; absent while one is away", streams.lag
        )
    yield _gauge("streams_missing", "Streams that cannot be read now", len(streams.missing))
    if status.watermark_ms != WATERMARK_START:
        yield _gauge("watermark_seconds", "Event time that all streams have passed", status.watermark_ms / 1e3)
        yield _gauge("watermark_lag_seconds", "Wall clock less watermark", streams.watermark_lag_ms / 1e3)
    yield _gauge("watermark_stalled_seconds", "How long records came and the watermark stood", streams.stalled_s)
    yield _gauge("joiner_bytes", "Memory of what waits for its label", streams.waiting_bytes)
    yield _gauge("held_records", "Records too far ahead of their partition's clock to be believed yet", streams.held)
    yield _counter("clock_jumps", "Times that a partition's clock jumped, in this process", streams.jumps)
    yield _by_reason("rejected_records", "Records that could not be used", streams.dead_letters)
    others = {what: n for what, n in streams.dropped().items() if not what.startswith("rejected ")}
    yield _by_reason("left_out", "What made no sample for other reasons", others)


def _scores(status: Status) -> Iterable[Metric]:
    family = GaugeMetricFamily(
        "monolith_trainer_score",
        "Metrics of progressive validation, over the newest full window and since the start",
        labels=["task", "span", "metric"],
    )
    for task, spans in point_of(status).scores.items():
        for span, numbers in spans.items():
            for metric, value in numbers.items():
                family.add_metric([task, span, metric], value)
    yield family


def _tables(status: Status) -> Iterable[Metric]:
    tables = point_of(status).tables
    for name, help_text in (("rows", "Rows of a table"), ("bytes", "Bytes that a table takes")):
        gauge = GaugeMetricFamily(f"monolith_trainer_table_{name}", help_text, labels=["table"])
        for table, numbers in tables.items():
            gauge.add_metric([table], getattr(numbers, name))
        yield gauge
    for name, help_text in (
        ("admitted", "Rows made"),
        ("rejected", "Occurrences of ids that had no row and got none"),
        ("expired", "Rows removed because of their time"),
        ("evicted", "Rows removed because the table was full"),
    ):
        counter = CounterMetricFamily(f"monolith_trainer_table_{name}", help_text, labels=["table"])
        for table, numbers in tables.items():
            counter.add_metric([table], getattr(numbers, name))
        yield counter


def _by_reason(name: str, help_text: str, counts: dict[str, int]) -> Metric:
    family = CounterMetricFamily(f"monolith_trainer_{name}", help_text, labels=["reason"])
    for reason, count in counts.items():
        family.add_metric([reason], count)
    return family


def _gauge(name: str, help_text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"monolith_trainer_{name}", help_text, value=value)


def _counter(name: str, help_text: str, value: float) -> Metric:
    return CounterMetricFamily(f"monolith_trainer_{name}", help_text, value=value)
