"""The trainer's HTTP server answers with what the newest status says, and only reads."""

from __future__ import annotations

import json
import urllib.error
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from monolith.dashboard import server
from monolith.dashboard.server import Dashboard
from monolith.errors import ConfigError
from monolith.training.curves import Curves


@pytest.fixture
def curves(tmp_path):
    return Curves(tmp_path / "curves.jsonl", every_s=0)


@pytest.fixture
def page(curves):
    with Dashboard("0", curves) as page:
        yield page


def get(page: Dashboard, path: str) -> tuple[int, str, bytes]:
    try:
        with urllib.request.urlopen(page.url + path, timeout=10) as answer:
            return answer.status, answer.headers["Content-Type"], answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers["Content-Type"], error.read()


def test_page_is_one_file_without_requests_to_anywhere_else(page):
    status, kind, body = get(page, "")
    assert (status, kind) == (200, "text/html; charset=utf-8")
    for elsewhere in (b"http:", b"https:", b"src=", b"@import", b"url("):
        assert elsewhere not in body.replace(b"http://www.w3.org/2000/svg", b""), elsewhere


def test_status_is_the_newest_one(page, make_status):
    assert get(page, "status")[0] == 503
    page(make_status(3))
    page(make_status(4))
    assert json.loads(get(page, "status")[2])["step"] == 4


def test_curves_are_the_points_after_a_time(page, curves, make_status):
    for step in (1, 2, 3):
        curves(make_status(step, time_ms=step * 1000))
    assert [point["step"] for point in json.loads(get(page, "curves")[2])] == [1, 2, 3]
    assert [point["step"] for point in json.loads(get(page, "curves?after=2000")[2])] == [3]
    assert get(page, "curves?after=soon")[0] == 400


def test_metrics_carry_scores_streams_and_tables(page, make_status):
    assert get(page, "metrics")[2] == b""
    page(make_status())
    found = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(get(page, "metrics")[2].decode())
        for sample in family.samples
    }
    assert found["monolith_trainer_score", "auc", "label", "total"] == 0.75
    assert ("monolith_trainer_score", "gauc", "label", "total") not in found  # NaN: not known
    assert found["monolith_trainer_rejected_records_total", "label"] == 4
    assert found["monolith_trainer_left_out_total", "late positives"] == 2
    assert found["monolith_trainer_table_rows", "user"] == 7
    assert found["monolith_trainer_lag_records",] == 5


def test_lag_is_absent_while_a_stream_does_not_answer(page, make_status):
    from monolith.streaming.progress import Progress

    page(make_status(lag=None, streams=Progress(lag=None, missing={"kafka://b/t": "away"})))
    text = get(page, "metrics")[2].decode()
    assert "monolith_trainer_lag_records" not in text
    assert "monolith_trainer_streams_missing 1.0" in text


def test_health_fails_once_the_trainer_has_been_silent_for_long(page, make_status, monkeypatch):
    page(make_status())
    assert get(page, "health")[0] == 200
    monkeypatch.setattr(server, "SILENT_S", -1.0)
    assert get(page, "health")[0] == 503


def test_other_paths_are_refused_with_those_that_are(page):
    status, _, body = get(page, "nowhere")
    assert status == 404
    assert "/metrics" in json.loads(body)["error"]


@pytest.mark.parametrize("address", ["nowhere", "127.0.0.1:99999", "256.1.1.1:80", "1.2.3.4:80"])
def test_an_address_that_cannot_be_listened_at_is_refused(curves, address):
    with pytest.raises(ConfigError, match="--dashboard"):
        Dashboard(address, curves)


def test_a_port_that_is_taken_is_refused(page, curves):
    port = page.url.rstrip("/").rsplit(":", 1)[1]
    with pytest.raises(ConfigError, match=f"--dashboard {port}"):
        Dashboard(port, curves)
