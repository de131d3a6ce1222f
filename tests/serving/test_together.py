"""Several features in one look-up, over HTTP: of one version, with what was found, in JSON and in binary."""

from __future__ import annotations

import json
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
from monolith.serving.body import encode_request as encode_version_1
from monolith.serving.client import Client
from monolith.serving.errors import BrokenAnswerError, RefusedError, TooLargeError
from monolith.serving.replica import Replica
from monolith.serving.together import (
    FoundRows,
    TogetherAnswer,
    decode_request,
    decode_response,
    encode_request,
    encode_response,
)

GOLDEN = Path(__file__).parents[1] / "golden"
QUESTIONS = {"user": [2, 99, 1], "tags": ["new", "nöne", ""], "movie": []}
ANSWER = TogetherAnswer(
    3,
    7,
    {
        "user": FoundRows(np.array([[1, 2, 3], [0, 0, 0]], np.float32), np.array([True, False])),
        "tags": FoundRows(np.zeros((0, 2), np.float32), np.zeros(0, np.bool_)),
    },
)


@pytest.fixture(params=["memory", "direct"])
def address(request, start_server, recommender, url):
    return start_server(Replica.open(url, "demo", request.param), mode=request.param, settings=ServeConfig(max_rows=9))


@pytest.fixture
def client(address):
    with Client(address) as client:
        yield client


def golden(name: str) -> bytes:
    return bytes.fromhex((GOLDEN / f"{name}.hex").read_text())


def test_the_bytes_are_the_same_for_ever():
    assert encode_request(QUESTIONS) == golden("lookup_request_v2")
    assert encode_response(ANSWER) == golden("lookup_response_v2")
    assert encode_version_1("user", np.array([17, -42])) == golden("lookup_request_v1")


def test_what_was_written_is_read():
    for name, values in decode_request(golden("lookup_request_v2")).items():
        assert list(values) == QUESTIONS[name]
    answer = decode_response(golden("lookup_response_v2"), ["user", "tags"], "here")
    assert (answer.generation, answer.sequence) == (3, 7)
    for name, rows in ANSWER.rows.items():
        assert answer.rows[name].values.tobytes() == rows.values.tobytes()
        assert answer.rows[name].found.tolist() == rows.found.tolist()


@given(st.data())
def test_a_changed_body_is_read_or_refused(data):
    for name in ("lookup_request_v2", "lookup_response_v2"):
        body = bytearray(golden(name))
        for _ in range(data.draw(st.integers(1, 3))):
            body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
        body = bytes(body[: data.draw(st.integers(0, len(body)))])
        with suppress(InputError, CorruptError):
            decode_request(body) if "request" in name else decode_response(body, ["user", "tags"], "here")


def test_rows_and_masks_come_back_in_binary_and_in_json(client, address, recommender):
    answer = client.lookup_together(QUESTIONS)
    assert (answer.generation, answer.sequence) == (1, 1)
    assert list(answer.rows) == list(QUESTIONS)
    assert answer.rows["user"].found.tolist() == [True, False, True]
    assert answer.rows["tags"].found.tolist() == [True, False, False]
    expected = recommender.tables["user"].lookup(np.array([2, 99, 1]))
    assert answer.rows["user"].values.tobytes() == expected.tobytes()
    told = httpx.post(f"{address}/lookup", json={"lookups": QUESTIONS}).json()
    assert (told["generation"], told["sequence"], list(told["lookups"])) == (1, 1, list(QUESTIONS))
    for name, rows in answer.rows.items():
        assert told["lookups"][name]["found"] == rows.found.tolist()
        assert told["lookups"][name]["dim"] == 4
        same = np.array(told["lookups"][name]["rows"], np.float32).reshape(-1, 4)
        assert same.tobytes() == rows.values.tobytes()


def test_a_name_that_is_the_key_of_another_form_is_only_a_name(address):
    refused = httpx.post(f"{address}/lookup", json={"name": "lookups", "values": [1]})
    assert "no table or feature 'lookups'" in refused.json()["error"]


def test_questions_of_older_clients_are_answered(address, recommender):
    headers = {"Content-Type": CONTENT_TYPE}
    answer = httpx.post(f"{address}/lookup", content=encode_version_1("user", np.array([1, 2])), headers=headers)
    assert answer.content[:6] == b"MLKR\x01\x00"
    assert answer.content[32:] == recommender.tables["user"].lookup(np.array([1, 2])).tobytes()


REFUSED = [
    ({"lookups": {"none": [1]}}, 400, "no table or feature 'none'"),
    ({"lookups": {"user": ["x"]}}, 400, "takes an integer"),
    ({"lookups": {"user": [1.5]}}, 400, r"Expected `int \| str`"),
    ({"lookups": [1]}, 400, "should be like"),
    ({"lookups": {}, "name": "user"}, 400, "unknown field `name`"),
    ({"lookups": {"user": [1] * 5, "movie": [1] * 5}}, 413, "at most 9 are allowed"),
    ({"lookups": {"user": [1] * 50}}, 413, "at most 9 are allowed"),
]


def test_what_cannot_be_asked_is_refused_and_says_why(address):
    for content, status, message in REFUSED:
        response = httpx.post(f"{address}/lookup", json=content)
        assert response.status_code == status, response.text
        with pytest.raises(AssertionError, match=message):
            raise AssertionError(response.json()["error"])
    twice = b'{"lookups": {"user": [1], "user": [2]}}'
    assert "a key twice" in httpx.post(f"{address}/lookup", content=twice).json()["error"]


def binary(*columns: tuple[bytes, int, int, bytes]) -> bytes:
    body = struct.pack("<4sHHQ", b"MLKQ", 2, len(columns), 0)
    for name, kind, count, values in columns:
        body += struct.pack("<HHIQ", len(name), kind, count, len(values))
        body += b"".join(part + bytes(-len(part) % 8) for part in (name, values))
    return body


ODD = [
    binary((b"user", 0, 2, bytes(8))),
    binary((b"user", 0, 1, bytes(16))),
    binary((b"user", 2, 1, bytes(8))),
    binary((b"user", 3, 1, b"[1]")),
    binary((b"user", 9, 1, bytes(8))),
    binary((b"us\xff", 0, 1, bytes(8))),
    binary((b"tags", 1, 1, struct.pack("<I", 9) + b"new")),
    binary((b"tags", 1, 5, b"new")),
    binary((b"tags", 1, 1, struct.pack("<I", 1) + b"\xff")),
    binary((b"user", 0, 1, bytes(8)), (b"user", 0, 1, bytes(8))),
    binary((b"user", 0, 1, bytes(8))) + bytes(8),
    binary((b"user", 0, 2**32 - 1, b"")),
    struct.pack("<4sHHQ", b"MLKQ", 2, 2**16 - 1, 0),
]


def test_binary_bodies_that_are_not_whole_are_400(address):
    assert httpx.post(f"{address}/lookup", content=binary((b"user", 0, 1, bytes(8))),
                      headers={"Content-Type": CONTENT_TYPE}).status_code == 200  # fmt: skip
    for body in ODD:
        response = httpx.post(f"{address}/lookup", content=body, headers={"Content-Type": CONTENT_TYPE})
        assert response.status_code == 400, (body, response.text)
        assert response.json()["error"]


def test_the_clients_errors_are_typed(client):
    with pytest.raises(TooLargeError, match="at most 9") as large:
        client.lookup_together({"user": list(range(10))})
    assert large.value.status == 413
    with pytest.raises(RefusedError, match="no table or feature") as refused:
        client.lookup_together({"none": [1]})
    assert refused.value.status == 400
    for values in ([1.5], [None], "user", 5, [2**63]):
        with pytest.raises(InputError):
            client.lookup_together({"user": values})
    for junk in (b"", b"hello", encode_response(ANSWER)[:-8], encode_response(ANSWER) + bytes(8)):
        with pytest.raises(BrokenAnswerError):
            decode_response(junk, ["user", "tags"], "here")


def test_a_large_question_is_answered_by_threads_as_by_the_loop(start_server, recommender, url):
    address = start_server(Replica.open(url, "demo"))
    ids = np.arange(5000) % 5
    with Client(address) as client:
        rows = client.lookup_together({"user": ids, "movie": [10]}).rows
    assert rows["user"].values.tobytes() == recommender.tables["user"].lookup(ids).tobytes()
    told = httpx.post(f"{address}/lookup", json={"lookups": {"user": ids.tolist()}}, timeout=60).json()
    assert json.dumps(told["lookups"]["user"]["rows"]) == json.dumps(rows["user"].values.tolist())
