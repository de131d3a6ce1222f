"""`monolith init` over streams of events: the job that it writes trains on all of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from init_command import START_S, check_fits, init

from monolith.config import load_job
from monolith.errors import ConfigError
from monolith.streaming.source import open_sink


@pytest.fixture(autouse=True)
def there(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def stream(name: str, events: list[dict]) -> str:
    sink = open_sink(f"log://{name}")
    sink.append([(b"k", json.dumps({"v": 1, **event}).encode(), event["event_time_ms"]) for event in events])
    sink.close()
    return f"log://{name}"


def shown(n: int, scale: int = 1000, **features) -> dict:
    known = {"user": n % 30, "country": ["de", "fr"][n % 2], "tags": ["a", "b"][: n % 3]} | features
    times = {"request_id": f"r{n}", "item_id": str(n % 9), "event_time_ms": (START_S + n) * scale}
    return {"type": "feature", "features": known, **times}


def done(n: int, delay_s: int, action: str, scale: int = 1000) -> dict:
    times = {"request_id": f"r{n}", "item_id": str(n % 9), "event_time_ms": (START_S + n + delay_s) * scale}
    return {"type": "action", "action": action, **times}


@pytest.mark.parametrize("scale", [1, 1000])
def test_streams_of_features_and_actions_become_a_job_that_joins_them(scale):
    features = stream("features", [shown(n, scale, price=n / 3, w={"x": 0.5}) for n in range(200)])
    actions = stream("actions", [done(n, 20, ["click", "buy"][n % 2], scale) for n in range(0, 200, 4)])
    assert init("--from", features, "--actions", actions, "--out", "job.yaml") == 0
    job = load_job("job.yaml", ["input.follow=false"])
    assert job.input.time_unit == ("s" if scale == 1 else "ms")
    assert job.join.positive_actions == ["click"]
    assert job.join.window_s == 30
    assert {f.name: f.type for f in job.features} == {
        "country": "string", "tags": "string", "price": "float", "w": "string"
    }  # fmt: skip
    assert job.train.group_by == "user"
    check_fits(job, 200)


def test_stream_of_joined_samples_becomes_a_job_with_its_tasks():
    events = [shown(n) | {"type": "sample", "label": {"click": n % 2, "stay": n / 9}} for n in range(120)]
    assert init("--from", stream("samples", events), "--out", "job.yaml", "--name", "my job") == 0
    job = load_job("job.yaml", ["input.follow=false"])
    assert job.name == "my_job"
    assert [(task.name, task.loss) for task in job.labels] == [("click", "log"), ("stay", "squared")]
    check_fits(job, 120)


def test_feature_of_several_types_is_left_out_and_ignored():
    features = stream("features", [shown(n, odd=[1, "x"][n % 2]) for n in range(100)])
    actions = stream("actions", [done(n, 5, "click") for n in range(0, 100, 3)])
    assert init("--from", features, "--actions", actions, "--out", "job.yaml") == 0
    assert "# odd: left out (values of several types" in Path("job.yaml").read_text()
    job = load_job("job.yaml", ["input.follow=false"])
    assert job.input.unknown_features == "ignore"
    check_fits(job, 100)


def test_a_few_odd_values_cost_their_records_and_not_the_feature():
    odd = {"price": "N/A", "shop": None, "size": 7}
    usual = [{"price": n / 3, "shop": n % 40, "size": "ml"[n % 2]} for n in range(300)]
    features = stream("features", [shown(n, **(odd if n == 100 else usual[n])) for n in range(300)])
    actions = stream("actions", [done(n, 5, "click") for n in range(0, 300, 3)])
    assert init("--from", features, "--actions", actions, "--out", "job.yaml") == 0
    text = Path("job.yaml").read_text()
    assert "- name: price # dense: from 0 to 99.6667 in the sample; 1 of 300 are of another type" in text
    assert "- {name: size, type: string} # 1 of 300 are of another type, and refused with their records" in text
    assert "odd" not in text
    job = load_job("job.yaml", ["input.follow=false"])
    assert {"price", "size", "shop"} <= {*job.feature_names(), *(f.name for f in job.features)}


def test_streams_without_a_label_are_refused_by_name():
    features = stream("features", [shown(n) for n in range(10)])
    actions = stream("actions", [done(0, 5, "click")])
    with pytest.raises(ConfigError, match="holds feature events, which have no label: give --actions URL"):
        init("--from", features)
    with pytest.raises(ConfigError, match="holds actions: give it as --actions"):
        init("--from", actions)
    with pytest.raises(ConfigError, match="holds no actions"):
        init("--from", features, "--actions", features)
    with pytest.raises(ConfigError, match="--label names a column of a Parquet file"):
        init("--from", features, "--label", "x")


def test_stream_without_an_event_says_what_its_records_are():
    sink = open_sink("log://junk")
    sink.append([(None, b"not an event", START_S * 1000)])
    sink.close()
    with pytest.raises(ConfigError, match="record 0:0 is no event"):
        init("--from", "log://junk")
