"""How old what is served is, and whether its trainer lives."""

from __future__ import annotations

import time

import httpx
import msgspec
import pytest

from monolith.config.job import ServeConfig
from monolith.serving import follower, publisher
from monolith.serving import replica as replica_module
from monolith.serving.replica import Replica
from monolith.serving.store import open_store

MODES = pytest.mark.parametrize("mode", ["memory", "direct"])


class WallClock:
    """Wall time that runs ahead by ``ahead_s``; monotonic time is the real one."""

    def __init__(self) -> None:
        self.ahead_s = 0.0
        self.monotonic, self.sleep = time.monotonic, time.sleep

    def time_ns(self) -> int:
        return time.time_ns() + int(1e9 * self.ahead_s)


@pytest.fixture
def reader_clock(monkeypatch):
    """The replica's wall clock; the trainer's stays."""
    clock = WallClock()
    monkeypatch.setattr(replica_module, "time", clock)
    return clock


@pytest.fixture(autouse=True)
def looks_at_every_call(monkeypatch):
    monkeypatch.setattr(publisher, "LOOK_EVERY_S", 0.0)
    monkeypatch.setattr(follower, "LOOK_EVERY_S", 0.0)


@MODES
def test_age_of_a_publish_is_told_by_wall_and_event_time(recommender, url, reader_clock, mode):
    with Replica.open(url, "demo", mode) as replica:
        reader_clock.ahead_s = 1560.0
        age = replica.status().age
        assert 1560e3 <= age.published_ms < 1660e3
        assert age.trainer_ms == pytest.approx(age.published_ms, abs=1000)
        assert age.event_ms == pytest.approx(time.time_ns() / 1e6 + 1560e3 - 1000, rel=1e-6)  # the watermark is 1000


@MODES
def test_quiet_trainer_that_lives_is_heard_of(recommender, url, monkeypatch, wait_until, mode):
    with Replica.open(url, "demo", mode) as replica:
        wait_until(lambda: replica.status().age.published_ms > 50, "some time to pass")
        recommender.publisher.beat()
        wait_until(lambda: replica.status().age.trainer_ms < replica.status().age.published_ms, "the beat being seen")


def test_beat_of_a_trainer_that_lost_the_store_counts_for_nothing(recommender, url):
    other = open_store(url, "demo")
    other.take_over(recommender.card)
    before = other.look().alive_ms
    recommender.store.beat()
    assert other.look().alive_ms == before
    other.beat()
    assert other.look().alive_ms > before
    other.close()


def test_damaged_beat_is_no_sign_of_life_and_no_trouble(recommender, tmp_path, caplog):
    recommender.store.beat()
    (tmp_path / "store" / "beat").write_bytes(b"12345678{}")
    look = recommender.store.look()
    assert look.alive_ms == look.version.published_ms
    assert "cannot be read" in caplog.text


@MODES
def test_ready_is_503_beyond_max_age_and_questions_are_answered_still(
    recommender, url, start_server, reader_clock, wait_until, mode
):
    settings = ServeConfig(max_age_s=60.0)
    address = start_server(Replica.open(url, "demo", mode), mode=mode, settings=settings)
    wait_until(lambda: httpx.get(f"{address}/ready").status_code == 200, "being ready")
    assert httpx.get(f"{address}/ready").json()["age"]["trainer_ms"] < 60e3
    reader_clock.ahead_s = 75.0
    refused = httpx.get(f"{address}/ready")
    assert refused.status_code == 503
    assert "the trainer was last heard of 75." in refused.json()["error"]
    assert refused.json()["age"]["published_ms"] >= 75e3
    assert httpx.post(f"{address}/lookup", json={"name": "user", "values": [1]}).status_code == 200


def test_without_max_age_an_old_model_is_ready(recommender, url, start_server, reader_clock, wait_until):
    address = start_server(Replica.open(url, "demo"))
    wait_until(lambda: httpx.get(f"{address}/ready").status_code == 200, "being ready")
    reader_clock.ahead_s = 86_400.0
    answer = httpx.get(f"{address}/ready")
    assert (answer.status_code, answer.json()["age"]["trainer_ms"] >= 86_400e3) == (200, True)


def test_ages_are_in_version_and_metrics(recommender, url, start_server, reader_clock, wait_until):
    address = start_server(Replica.open(url, "demo"))
    wait_until(lambda: httpx.get(f"{address}/ready").status_code == 200, "being ready")
    reader_clock.ahead_s = 100.0
    assert httpx.get(f"{address}/version").json()["age"]["published_ms"] >= 100e3
    text = httpx.get(f"{address}/metrics").text
    for name in ("published_age_seconds", "event_age_seconds", "trainer_age_seconds"):
        assert f"\nmonolith_replica_{name} " in text


def test_head_that_knows_no_event_time_has_no_event_age():
    from monolith.events import WATERMARK_END, WATERMARK_START
    from monolith.serving.ledger import Version

    version = Version(sequence=1, published_ms=1)
    for watermark_ms in (WATERMARK_START, WATERMARK_END):
        held = msgspec.structs.replace(version, watermark_ms=watermark_ms)
        assert replica_module._age(held, 0).event_ms is None
