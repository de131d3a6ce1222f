"""Predictions for candidates over HTTP, in JSON and in binary."""

from __future__ import annotations

import struct
from contextlib import suppress
from pathlib import Path

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monolith.config.job import ServeConfig
from monolith.errors import CorruptError, InputError
from monolith.serving.body import CONTENT_TYPE
from monolith.serving.client import Client
from monolith.serving.errors import TooLargeError
from monolith.serving.replica import Replica
from monolith.serving.scoring import ScoreAnswer, decode_request, decode_response, encode_request, encode_response

GOLDEN = Path(__file__).parents[1] / "golden"
LIMITS = ServeConfig(max_rows=8, max_values=40, max_sample_values=9)
SHARED = {"user": 1, "last_movie": 11}
COLUMNS = {"movie": [10, 11, 99], "tags": [["new"], [], {"funny": 0.5}]}
EVERY_KIND = {"ids": [1, -2], "words": ["a", "bé"], "numbers": [0.5, -1.0], "others": [None, [1, 2]]}
SCORES = {"click": np.array([0.25, 0.5, 1], np.float32), "watch": np.array([1, 2, 3], np.float32)}


@pytest.fixture(params=["memory", "direct"])
def address(request, start_server, recommender, url):
    return start_server(Replica.open(url, "demo", request.param), mode=request.param, settings=LIMITS)


@pytest.fixture
def client(address):
    with Client(address) as client:
        yield client


def golden(name: str) -> bytes:
    return bytes.fromhex((GOLDEN / f"{name}.hex").read_text())


def test_the_bytes_are_the_same_for_ever():
    assert encode_request({"user": 17}, EVERY_KIND, 1_700_000_000_000) == golden("predict_request_v1")
    assert encode_response(ScoreAnswer(3, 7, SCORES, False)) == golden("predict_response_v1")


def test_what_was_written_is_read():
    raw = decode_request(golden("predict_request_v1"))
    assert (raw.count, raw.shared, raw.event_time_ms) == (2, b'{"user":17}', 1_700_000_000_000)
    assert {name: list(values) for name, values in raw.columns.items() if name != "others"} == {
        name: values for name, values in EVERY_KIND.items() if name != "others"
    }
    assert raw.columns["others"] == b"[null,[1,2]]"
    assert decode_request(encode_request({}, {})).event_time_ms is None
    answer = decode_response(golden("predict_response_v1"), "here")
    assert (answer.generation, answer.sequence, answer.is_probability) == (3, 7, False)
    assert {task: values.tolist() for task, values in answer.scores.items()} == {
        task: values.tolist() for task, values in SCORES.items()
    }


@given(st.data())
def test_a_changed_body_is_read_or_refused(data):
    for name in ("predict_request_v1", "predict_response_v1"):
        body = bytearray(golden(name))
        for _ in range(data.draw(st.integers(1, 3))):
            body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
        body = bytes(body[: data.draw(st.integers(0, len(body)))])
        with suppress(InputError, CorruptError):
            decode_request(body) if "request" in name else decode_response(body, "here")


def test_candidates_score_as_samples_do_in_binary_and_in_json(client, address):
    samples = [{**SHARED, "movie": m, "tags": t} for m, t in zip(*COLUMNS.values(), strict=True)]
    expected = client.predict(samples)
    assert client.predict_candidates(SHARED, COLUMNS).tobytes() == expected.tobytes()
    told = httpx.post(f"{address}/predict", json={"shared": SHARED, "candidates": COLUMNS}).json()
    assert np.array(told["probabilities"], np.float32).tobytes() == expected.tobytes()
    assert (told["generation"], told["sequence"]) == (1, 1)
    only = httpx.post(f"{address}/predict", json={"candidates": {"movie": [10, 11]}, "event_time_ms": None}).json()
    assert only["probabilities"] == client.predict([{"movie": 10}, {"movie": 11}]).tolist()


def test_no_candidate_is_no_score(client):
    assert client.predict_candidates({"user": 1}, {"movie": []}).shape == (0,)
    assert client.predict_candidates({}, {}).shape == (0,)


REFUSED = [
    ({"candidates": {"movie": ["x"]}}, 400, "candidate 0: .*takes an integer"),
    ({"candidates": {"movie": [1], "user": [1, 2]}}, 400, "several lengths"),
    ({"candidates": {"movie": [1]}, "shared": {"movie": 1}}, 400, "give it once"),
    ({"candidates": {"movie": [1]}, "samples": []}, 400, "unknown field `samples`"),
    ({"candidates": [1]}, 400, "should be like"),
    ({"candidates": {"movie": [1]}, "event_time_ms": "x"}, 400, "event_time_ms"),
    ({"candidates": {"colour": [1]}}, 400, "unknown_feature"),
    ({"candidates": {"movie": [1] * 9}}, 413, "at most 8 are allowed"),
    ({"candidates": {"tags": [["new"] * 10]}}, 413, "at most 9 are allowed in one sample"),
    ({"candidates": {"tags": [["new"] * 8] * 6}}, 413, "at most 40 are allowed"),
    ({"candidates": {"movie": [1]}, "shared": {"tags": ["new"] * 9}}, 413, "shared ones included"),
]


def test_what_cannot_be_asked_is_refused_in_both_forms(address, client):
    for content, status, message in REFUSED:
        response = httpx.post(f"{address}/predict", json=content)
        assert response.status_code == status, response.text
        with pytest.raises(AssertionError, match=message):
            raise AssertionError(response.json()["error"])
        if set(content) <= {"shared", "candidates"} and isinstance(content["candidates"], dict):
            with pytest.raises(InputError):
                client.predict_candidates(content.get("shared", {}), content["candidates"])


TWICE = [
    b'{"candidates": {"movie": [1], "movie": [2]}}',
    b'{"candidates": {"movie": [1]}, "candidates": {}}',
    b'{"shared": {"user": 1, "user": 2}, "candidates": {"movie": [1]}}',
    b'{"candidates": {"tags": [{"a": 1, "a": 2}]}}',
]


def test_a_key_that_is_there_twice_is_refused(address):
    for content in TWICE:
        assert "a key twice" in httpx.post(f"{address}/predict", content=content).json()["error"], content
    good = b'{"shared": {"tags": {":": 1}}, "candidates": {"movie": [1]}, "event_time_ms": 5}'
    assert httpx.post(f"{address}/predict", content=good).status_code == 200


def binary(shared: bytes, count: int, *columns: tuple[bytes, int, int, bytes]) -> bytes:
    body = struct.pack("<4sHHIIq", b"MPRQ", 1, len(columns), count, len(shared), -(2**63))
    body += shared + bytes(-len(shared) % 8)
    for name, kind, length, values in columns:
        body += struct.pack("<HHIQ", len(name), kind, length, len(values))
        body += b"".join(part + bytes(-len(part) % 8) for part in (name, values))
    return body


ODD = [
    b"",
    binary(b"[]", 0),
    binary(b"{", 0),
    binary(b'{"user":1,"user":2}', 0),
    binary(b"{}", 1, (b"movie", 3, 1, b"[1,2]")),
    binary(b"{}", 1, (b"movie", 3, 1, b"{}")),
    binary(b"{}", 2, (b"movie", 0, 1, bytes(8))),
    binary(b"{}", 1, (b"movie", 0, 1, bytes(8)), (b"movie", 0, 1, bytes(8))),
    binary(b"{}", 1, (b"tags", 3, 1, b'[{"a":1,"a":2}]')),
    binary(b"{}", 1, (b"movie", 0, 1, bytes(8))) + bytes(8),
    binary(b"{}", 2**32 - 1),
]


def test_binary_bodies_that_are_not_whole_are_400(address):
    def status(body: bytes) -> int:
        return httpx.post(f"{address}/predict", content=body, headers={"Content-Type": CONTENT_TYPE}).status_code

    assert status(binary(b"{}", 1, (b"movie", 0, 1, bytes(8)))) == 200
    for body in ODD:
        assert status(body) in (400, 413), body


def test_the_client_refuses_what_cannot_be_sent(client):
    for shared, columns in (
        ({"user": object()}, {}),
        ({}, {"movie": [object()]}),
        ({}, {"movie": 5}),
        ({}, {"m": "ab"}),
    ):
        with pytest.raises(InputError):
            client.predict_candidates(shared, columns)
    with pytest.raises(InputError):
        client.predict_candidates({}, {"movie": [1]}, 2**70)
    with pytest.raises(TooLargeError):
        client.predict_candidates({}, {"movie": list(range(9))})
