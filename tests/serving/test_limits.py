"""What one request may cost the others: limits, turns, and pieces of one version."""

from __future__ import annotations

import socket
import threading

import httpx
import numpy as np
import pytest

from monolith.config.job import ServeConfig
from monolith.serving import answers, inference
from monolith.serving.body import CONTENT_TYPE, encode_request
from monolith.serving.client import Client
from monolith.serving.pieces import finished
from monolith.serving.replica import Replica


@pytest.fixture
def replica(recommender, url):
    with Replica.open(url, "demo") as replica:
        yield replica


@pytest.fixture
def held(replica, monkeypatch):
    """Every prediction begins, counts, and goes on resting until the test sets ``held.go``."""
    predicting, held = replica.predicting, threading.Event()
    held.go, held.begun, held.left = threading.Event(), threading.Semaphore(0), threading.Event()

    def rest(*question):
        held.begun.release()
        try:
            while not held.go.wait(0.001):
                yield
        except GeneratorExit:
            held.left.set()
            raise
        return (yield from predicting(*question))

    monkeypatch.setattr(replica, "predicting", rest)
    yield held
    held.go.set()


def many(count: int) -> list[dict]:
    return [{"user": n % 3, "movie": 10 + n % 2, "tags": ["new", "funny"] * (n % 4)} for n in range(count)]


def metric(address: str, name: str) -> float:
    lines = httpx.get(f"{address}/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(f"monolith_replica_{name}"))


def test_a_prediction_in_many_pieces_has_the_probabilities_of_its_samples(replica, recommender, monkeypatch):
    monkeypatch.setattr(inference, "PIECE_SAMPLES", 7)
    samples = [*many(60), {}, {"tags": ["new"] * 5000}, {"tags": {"new": 2.0, "odd": -1.0}}]
    work = replica.predicting(lambda: [samples])
    pieces = sum(1 for _ in work)
    assert pieces >= 2 * 9
    expected = recommender.probabilities(samples)
    np.testing.assert_allclose(replica.predict(samples).probabilities, expected, rtol=1e-6)


@pytest.mark.parametrize("mode", ["memory", "direct"])
def test_a_prediction_is_of_one_version_whatever_is_published_between_its_pieces(
    recommender, url, mode, monkeypatch, wait_until
):
    monkeypatch.setattr(inference, "PIECE_SAMPLES", 7)
    samples = many(40)
    expected = {}
    with Replica.open(url, "demo", mode) as replica:
        work = replica.predicting(lambda: [samples])
        while True:
            expected[recommender.sequence] = recommender.probabilities(samples)
            try:
                next(work)
            except StopIteration as end:
                prediction = end.value
                break
            recommender.learn(samples)
            recommender.publish()
            wait_until(lambda: replica.version().sequence == recommender.sequence, "the new sequence")
    assert len(expected) > 6
    assert prediction.version.sequence in expected
    np.testing.assert_allclose(prediction.probabilities, expected[prediction.version.sequence], rtol=1e-6)


def test_everybody_else_is_answered_while_predictions_are_worked_on(start_server, replica, held, in_thread):
    address = start_server(replica, settings=ServeConfig(threads=1))
    answers = []
    for _ in range(2):
        in_thread(lambda: answers.append(httpx.post(f"{address}/predict", json={"samples": many(3)}, timeout=60)))
        assert held.begun.acquire(timeout=20)  # the second, though the only thread has a first
    assert httpx.get(f"{address}/health").status_code == 200
    with Client(address) as client:
        assert client.lookup("user", [1, 2]).any()
        assert client.lookup("tags", ["new"]).any()
    assert answers == []
    held.go.set()


def test_more_predictions_than_may_wait_are_told_to_come_again(start_server, replica, held, in_thread, wait_until):
    address = start_server(replica, settings=ServeConfig(threads=1, max_waiting=1))
    answers = []
    for _ in range(2):
        in_thread(lambda: answers.append(httpx.post(f"{address}/predict", json={"samples": many(3)}, timeout=60)))
    wait_until(lambda: metric(address, "requests_inside") == 2, "two requests inside")
    refused = httpx.post(f"{address}/predict", json={"samples": many(3)})
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
    assert "at most 2 may" in refused.json()["error"]
    with Client(address) as client:
        assert client.lookup("user", [1]).any()
        held.go.set()
        assert client.predict(many(3)).shape == (3,)
    wait_until(lambda: [answer.status_code for answer in answers] == [200, 200], "both answers")


def test_a_prediction_whose_client_has_gone_is_not_gone_on_with(start_server, replica, held, wait_until, caplog):
    address = start_server(replica)
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(b'POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 16\r\n\r\n{"samples":[{}]}')
        assert held.begun.acquire(timeout=20)
    wait_until(lambda: metric(address, "requests_abandoned_total") == 1, "the count of the one that went away")
    assert metric(address, "requests_inside") == 0
    assert caplog.records == []


@pytest.mark.parametrize("length", [b"99999999999", b"9" * 400])
def test_a_body_that_is_announced_too_long_is_refused_before_it_is_sent(start_server, replica, length):
    address = start_server(replica)
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(b"POST /lookup HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: ")
        connection.sendall(length + b"\r\n\r\n")
        assert connection.recv(1000).startswith((b"HTTP/1.1 413", b"HTTP/1.1 400"))


def test_values_are_limited_in_all_and_of_one_sample(start_server, replica):
    address = start_server(replica, settings=ServeConfig(max_values=20, max_sample_values=9))
    for samples, text in (([{"tags": ["new"] * 9}] * 3, "20 are allowed"), ([{"tags": ["new"] * 10}], "9 are allowed")):
        refused = httpx.post(f"{address}/predict", json={"samples": samples})
        assert refused.status_code == 413
        assert text in refused.json()["error"]
    assert httpx.post(f"{address}/predict", json={"samples": [{"tags": ["new"] * 9}] * 2}).status_code == 200


def test_a_request_for_more_memory_than_all_may_have_is_413_and_beside_others_503(
    start_server, replica, held, in_thread, monkeypatch
):
    address = start_server(replica, settings=ServeConfig(max_request_bytes=500_000))
    refused = httpx.post(f"{address}/predict", json={"samples": many(4000)})
    assert refused.status_code == 413
    assert "serve.max_request_bytes" in refused.json()["error"]
    in_thread(lambda: httpx.post(f"{address}/predict", json={"samples": many(800)}, timeout=60))
    assert held.begun.acquire(timeout=20)
    refused = httpx.post(f"{address}/predict", json={"samples": many(800)})
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
    in_thread(lambda: httpx.post(f"{address}/predict", json={"samples": many(20)}, timeout=60))
    assert held.begun.acquire(timeout=20)  # a small one is not turned away
    held.go.set()


@pytest.mark.parametrize("mode", ["memory", "direct"])
def test_a_large_look_up_has_the_rows_of_small_ones(start_server, recommender, url, mode, monkeypatch):
    monkeypatch.setattr(answers, "PIECE_FLOATS", 64)
    address = start_server(Replica.open(url, "demo", mode), mode=mode)
    ids = np.arange(5000) % 5
    expected = recommender.tables["user"].lookup(ids)
    rows = httpx.post(f"{address}/lookup", json={"name": "user", "values": ids.tolist()}, timeout=60).json()["rows"]
    assert np.array(rows, np.float32).tobytes() == expected.tobytes()
    binary = httpx.post(
        f"{address}/lookup", content=encode_request("user", ids), headers={"Content-Type": CONTENT_TYPE}, timeout=60
    )
    assert binary.content.endswith(expected.tobytes())


def test_a_packed_body_is_415_and_says_how_to_send_it(start_server, replica):
    address = start_server(replica)
    for path in ("/lookup", "/predict"):
        refused = httpx.post(address + path, content=b"\x1f\x8b", headers={"Content-Encoding": "gzip"})
        assert refused.status_code == 415
        assert "content encoding 'gzip'" in refused.json()["error"]


def test_finished_work_is_the_answer(replica):
    assert finished(replica.predicting(list)).probabilities.shape == (0,)
