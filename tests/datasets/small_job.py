"""A small job over a generated stream, whose logs hold it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from monolith.commands.local_stream import local_sets
from monolith.config import JobConfig, parse_job
from monolith.datasets.impressions import Impression, timeline, write_events
from monolith.datasets.synthetic import SyntheticConfig, SyntheticStream
from monolith.streaming.source import open_sink

JOB = """
name: small
input: {features: log://x, actions: log://y}
join: {window_s: 120}
tables:
  - {name: user, dim: 3, admission: {kind: min_count, count: 2}, expiry: {kind: idle, ttl_s: 3600}}
  - {name: item, dim: 3}
  - {name: segment, dim: 3}
  - {name: category, dim: 3}
model: {kind: fm}
train: {batch_size: 32, step_records: 100}
"""


def small_stream() -> SyntheticStream:
    return SyntheticStream(SyntheticConfig(users=40, items=30))


def job_over(impressions: Iterable[Impression], folder: Path) -> JobConfig:
    """The job over logs in ``folder``, in which the impressions are."""
    job = parse_job(JOB, "small.yaml", local_sets(folder))
    features, actions = open_sink(job.input.features), open_sink(job.input.actions)
    write_events(timeline(impressions), features, actions)
    features.close()
    actions.close()
    return job
