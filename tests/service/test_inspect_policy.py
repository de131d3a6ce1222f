"""`monolith inspect policy kafka://...`: a topic, up to where it ends now."""

from __future__ import annotations

import json

import pytest

from monolith.cli import main
from monolith.streaming.source import open_sink

pytestmark = pytest.mark.service
START_MS = 1_700_000_000_000


def replayed(capsys, url: str) -> dict:
    with pytest.raises(SystemExit) as ended:
        main(
            [
                "inspect",
                "policy",
                url,
                "--feature",
                "user",
                "--admission",
                "min_count:3",
                "--expiry",
                "idle:2m",
                "--json",
            ]
        )
    out, err = capsys.readouterr()
    assert ended.value.code == 0, err
    found: dict = json.loads(out)
    return found


def test_a_topic_gives_what_a_log_of_the_same_events_gives(kafka, topic, tmp_path, capsys):
    rows = []
    for n in range(2_000):
        event = {"type": "feature", "v": 1, "request_id": f"r{n}", "item_id": "i", "event_time_ms": START_MS + n * 1000}
        rows.append((b"k", json.dumps(event | {"features": {"user": n * n % 331}}).encode(), START_MS + n * 1000))
    urls = [kafka.create(topic), f"log://{tmp_path / 'log'}"]
    for url in urls:
        sink = open_sink(url)
        sink.append(rows)
        sink.close()
    of_topic, of_log = (replayed(capsys, url) for url in urls)
    assert of_topic == of_log
    assert of_topic["events"] == 2_000
    assert of_topic["settings"][0]["removed"] > 0
