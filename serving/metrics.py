"""What a replica's server tells Prometheus. All names begin with ``monolith_replica_``."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from monolith.events import WATERMARK_START
from monolith.serving.replica import Replica

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_LATENCY_BUCKETS_S = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 2.0)


class ServerMetrics:
    """One server's counters, and a look at its replica whenever they are read."""

    def __init__(self, replica: Replica) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "monolith_replica_requests", "Requests answered", ["endpoint", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            "monolith_replica_request_seconds",
            "Time from a request's body to its answer",
            ["endpoint"],
            registry=self._registry,
            buckets=_LATENCY_BUCKETS_S,
        )
        self._rows = Counter("monolith_replica_rows", "Rows looked up or scored", ["endpoint"], registry=self._registry)
        self._abandoned = Counter(
            "monolith_replica_requests_abandoned",
            "Requests whose client went away, or was too slow, before the answer",
            ["endpoint"],
            registry=self._registry,
        )
        self._closed = Counter(
            "monolith_replica_connections_closed",
            "Connections closed by the server: too slow a head, body or answer, too many, no HTTP, too long a head",
            ["reason"],
            registry=self._registry,
        )
        self._unauthorized = Counter(
            "monolith_replica_requests_unauthorized",
            "Requests turned away as they came without one of the server's tokens",
            registry=self._registry,
        )
        self._outcomes: dict[tuple[str, int], tuple[Counter, Histogram, Counter]] = {}
        self._registry.register(_ReplicaCollector(replica))

    def answered(self, endpoint: str, status: int, seconds: float, rows: int) -> None:
        """Count one request."""
        outcome = self._outcomes.get((endpoint, status))
        if outcome is None:  # finding a metric by its labels takes longer than counting
            outcome = self._outcomes[endpoint, status] = (
                self._requests.labels(endpoint, str(status)),
                self._seconds.labels(endpoint),
                self._rows.labels(endpoint),
            )
        requests, times, counted = outcome
        requests.inc()
        times.observe(seconds)
        if rows:
            counted.inc(rows)

    def abandoned(self, endpoint: str) -> None:
        """Count one request that nobody waits for any more."""
        self._abandoned.labels(endpoint).inc()

    def unauthorized(self) -> None:
        """Count one request without a token of the server's."""
        self._unauthorized.inc()

    def closed(self, reason: str) -> None:
        """Count one connection that the server closed."""
        self._closed.labels(reason).inc()

    def watch(self, name: str, help_text: str, value: Callable[[], float]) -> None:
        """A gauge that is looked at whenever the metrics are read."""
        Gauge(f"monolith_replica_{name}", help_text, registry=self._registry).set_function(value)

    def text(self) -> bytes:
        """Everything in Prometheus's text format."""
        return generate_latest(self._registry)


class _ReplicaCollector(Collector):
    """A replica's status as gauges, taken when Prometheus asks."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica

    def collect(self) -> Iterable[Metric]:
        status = self._replica.status()
        yield _gauge("ready", "1 if the replica can answer", float(status.ready))
        yield _gauge("stale_seconds", "How long the store has not answered, 0 while it does", status.stale_ms / 1e3)
        ages = (
            ("published_age_seconds", "Since the trainer handed over what is served", status.age.published_ms),
            ("event_age_seconds", "Since the event time that is served", status.age.event_ms),
            ("trainer_age_seconds", "Since the trainer was last heard of", status.age.trainer_ms),
        )
        for name, help_text, age_ms in ages:
            if age_ms is not None:
                yield _gauge(name, help_text, age_ms / 1e3)
        yield _gauge("deltas_applied", "Deltas applied since the start", status.applied)
        yield _gauge("images_loaded", "Loads of a whole image since the start", status.images)
        if status.version is not None:
            yield _gauge("generation", "Generation of the trainer that wrote what is served", status.version.generation)
            yield _gauge("sequence", "Sequence that is served", status.version.sequence)
            if status.version.watermark_ms != WATERMARK_START:  # published before any partition had a clock
                yield _gauge("watermark_seconds", "Event time that is served", status.version.watermark_ms / 1e3)
        if status.freshness is not None:
            freshness = GaugeMetricFamily(
                "monolith_replica_freshness_seconds",
                "Time from a record's ingestion until what it taught could be read here",
                labels=["quantile"],
            )
            freshness.add_metric(["0.5"], status.freshness.p50_ms / 1e3)
            freshness.add_metric(["0.99"], status.freshness.p99_ms / 1e3)
            yield freshness


def _gauge(name: str, help_text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"monolith_replica_{name}", help_text, value=value)
