from __future__ import annotations

from pathlib import Path

import pytest

from monolith.config import load_job
from monolith.datasets import ml100k_origin
from monolith.datasets.ml100k import MovieLens
from monolith.datasets.streams import JOBS, open_stream
from monolith.errors import ConfigError

CHECKOUT = Path(__file__).resolve().parents[2]


def test_a_generated_stream_has_the_events_that_were_asked_for():
    stream = open_stream("synthetic", 700)
    impressions = list(stream.start())
    assert len(impressions) == stream.count == 700
    assert stream.cut_ms(0.5) == impressions[350].feature.event_time_ms
    assert stream.last() == impressions[-1]


@pytest.mark.parametrize("events", [0, -1, 499])
def test_too_few_events_are_refused(events: int):
    with pytest.raises(ConfigError, match="too few to learn from and to judge by; take at least 500"):
        open_stream("synthetic", events)


def test_another_name_is_refused_with_those_there_are():
    with pytest.raises(ConfigError, match="no stream 'ml-1m'; allowed: ml-100k, synthetic"):
        open_stream("ml-1m")


def test_more_ratings_than_there_are_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(ml100k_origin, "get", lambda: (tmp_path, "here"))
    monkeypatch.setattr("monolith.datasets.ml100k.load", lambda _: MovieLens([], {}, {}))
    with pytest.raises(ConfigError, match="ml-100k has 0 ratings; 600 were asked for"):
        open_stream("ml-100k", 600)


@pytest.mark.parametrize("name", list(JOBS))
def test_the_job_of_each_stream_loads_and_reads_features_that_its_events_carry(name: str, owner_zip: bytes):
    job = load_job(JOBS[name])
    if name == "synthetic":
        carried = set(open_stream(name, 500).last().feature.features)
    else:
        carried = {"user", "movie", "age", "gender", "occupation", "zip", "genres", "year"}
    assert set(job.feature_names()) <= carried
    assert job.input.unknown_features == "ignore" or set(job.feature_names()) == carried
