"""Clients that are slow, many, gone or no clients at all, on real sockets; a healthy one is served meanwhile."""

from __future__ import annotations

import contextlib
import logging
import select
import socket
import struct
import threading

import httpx
import msgspec
import numpy as np
import pytest

from monolith.config.job import ServeConfig
from monolith.serving.body import CONTENT_TYPE, encode_request
from monolith.serving.client import Client
from monolith.serving.connections import _Outlet
from monolith.serving.replica import Replica

HEAD = b"POST /predict HTTP/1.1\r\nHost: replica\r\n"
HURRIED = ServeConfig(head_timeout_s=1, body_timeout_s=1, answer_timeout_s=1)
PATIENT = ServeConfig(head_timeout_s=60, body_timeout_s=60, answer_timeout_s=60, keep_alive_s=60)


@pytest.fixture
def serve(start_server, recommender, url):
    """A server with these settings; its address, and its host and port."""

    def start(settings: ServeConfig) -> tuple[str, tuple[str, int]]:
        address = start_server(Replica.open(url, "demo"), settings=settings)
        host, port = address.removeprefix("http://").split(":")
        return address, (host, int(port))

    return start


@pytest.fixture
def connect():
    """Sockets that are closed in the end."""
    with contextlib.ExitStack() as stack:

        def connect(place: tuple[str, int], **options) -> socket.socket:
            connection = stack.enter_context(socket.socket())
            connection.settimeout(30)
            for option, value in options.items():
                connection.setsockopt(socket.SOL_SOCKET, getattr(socket, option), value)
            connection.connect(place)
            return connection

        yield connect


@pytest.fixture
def healthy(in_thread):
    """A client that asks all the time until the test ends, and never fails."""
    stop, answers = threading.Event(), []

    def begin(address: str) -> list:
        def ask() -> None:
            with Client(address, retries=0, timeout_s=20) as client:
                while not stop.is_set():
                    answers.append(client.lookup("user", [1, 2]).any())

        in_thread(ask)
        return answers

    yield begin
    stop.set()
    assert all(answers)


def received(connection: socket.socket) -> bytes:
    """Everything until the server closes."""
    parts = []
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(65536):
            parts.append(part)
    return b"".join(parts)


def closed(address: str, reason: str) -> float:
    return metric(address, f'connections_closed_total{{reason="{reason}"}}')


def metric(address: str, name: str) -> float:
    lines = httpx.get(f"{address}/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(f"monolith_replica_{name}"))


def trickle(connection: socket.socket, data: bytes) -> bytes:
    """Send byte after byte until the server answers; the answer."""
    for byte in data:
        if select.select([connection], [], [], 0.02)[0]:
            return connection.recv(65536)
        connection.send(bytes([byte]))
    raise AssertionError("the server took it all")


def test_a_header_that_trickles_in_is_408_and_others_are_served(serve, connect, healthy):
    address, place = serve(HURRIED)
    answers = healthy(address)
    slow = [connect(place) for _ in range(20)]
    for connection in slow:
        connection.sendall(b"POST /lookup HTTP/1.1\r\n")
    assert b"408 Request Timeout" in trickle(connect(place), HEAD + b"X: " + b"y" * 1000)
    for connection in slow:
        answer = received(connection)
        assert answer.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
        assert msgspec.json.decode(answer.partition(b"\r\n\r\n")[2])["error"].endswith("was not there within 1 s")
    assert closed(address, "head") == 21
    assert answers


def test_a_body_that_trickles_in_is_408_and_others_are_served(serve, connect, healthy, wait_until):
    address, place = serve(HURRIED)
    answers = healthy(address)
    slow = [connect(place) for _ in range(20)]
    for connection in slow:
        connection.sendall(HEAD + b'Content-Length: 1000\r\n\r\n{"samples": [')
    trickling = connect(place)
    trickling.sendall(HEAD + b"Content-Length: 1000\r\n\r\n")
    assert b"408 Request Timeout" in trickle(trickling, b" " * 1000)
    for connection in slow:
        assert received(connection).startswith(b"HTTP/1.1 408 Request Timeout\r\n")
    assert closed(address, "body") == 21
    wait_until(lambda: metric(address, "requests_abandoned_total") == 21, "the count of the requests")
    assert answers


def test_a_connection_that_says_nothing_is_closed_without_a_word(serve, connect):
    address, place = serve(HURRIED)
    assert received(connect(place)) == b""
    assert closed(address, "head") == 1


def test_blank_lines_are_no_sign_of_life(serve, connect):
    _, place = serve(HURRIED)
    assert b"408" in trickle(connect(place), b"\r\n" * 500)


def test_a_client_that_never_reads_its_answers_is_cut_off(serve, connect, wait_until):
    address, place = serve(HURRIED)
    ids = np.zeros(10_000, np.int64)
    question = encode_request("user", ids)
    request = (
        f"POST /lookup HTTP/1.1\r\nHost: x\r\nContent-Type: {CONTENT_TYPE}\r\nContent-Length: {len(question)}\r\n\r\n"
    ).encode() + question
    reader = connect(place, SO_RCVBUF=4096)
    reader.setblocking(False)
    waiting = request * 200

    def cut_off() -> bool:
        nonlocal waiting
        with contextlib.suppress(BlockingIOError, ConnectionError):
            waiting = waiting[reader.send(waiting[:1_000_000]) :]
        return closed(address, "answer") == 1

    wait_until(cut_off, "the end of a connection whose answers nobody reads")


def test_more_connections_than_are_allowed_are_told_to_come_again(serve, connect, wait_until):
    address, place = serve(msgspec.structs.replace(PATIENT, max_connections=5))
    full = [connect(place) for _ in range(5)]
    refused = received(connect(place))
    assert refused.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    assert b"\r\nRetry-After: 1\r\n" in refused
    assert b"5 connections" in refused
    for connection in full:
        connection.close()
    with Client(address, retries=20) as client:
        assert client.lookup("user", [1]).any()
        assert client.version()
    assert closed(address, "full") >= 1


def test_a_flood_of_refused_connections_leaves_none_behind(serve, connect, wait_until):
    address, place = serve(msgspec.structs.replace(HURRIED, max_connections=50, head_timeout_s=5))
    flood = [connect(place) for _ in range(300)]
    for connection in flood:
        connection.close()
    with Client(address, retries=50) as client:
        assert client.version()
    wait_until(lambda: metric(address, "connections ") <= 2, "the end of all others")


def test_a_header_without_end_is_431(serve, connect):
    address, place = serve(PATIENT)
    connection = connect(place)
    connection.sendall(HEAD + b"X: " + b"y" * 1_000_000)
    assert received(connection).startswith(b"HTTP/1.1 431 Request Header Fields Too Large\r\n")
    assert closed(address, "long_head") == 1


@pytest.mark.parametrize("junk", [b"\x16\x03\x01\x02\x00\x01\x00", b"GET /\xff HTTP/1.1\r\n\r\n", b"hello\r\n\r\n"])
def test_what_is_no_http_is_400_in_words(serve, connect, junk, caplog):
    caplog.set_level(logging.WARNING)
    address, place = serve(PATIENT)
    connection = connect(place)
    connection.sendall(junk)
    answer = received(connection)
    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert "no HTTP request" in msgspec.json.decode(answer.partition(b"\r\n\r\n")[2])["error"]
    assert closed(address, "no_http") == 1
    assert caplog.records == []


def test_clients_that_go_away_cost_a_count_and_no_log_line(serve, connect, wait_until, caplog):
    caplog.set_level(logging.WARNING)
    address, place = serve(PATIENT)
    for sent in (b"", b"POST /pre", HEAD + b"Content-Length: 50\r\n\r\n", HEAD + b"Content-Length: 50\r\n\r\n{"):
        for linger in (False, True):
            connection = connect(place)
            connection.sendall(sent)
            if linger:  # a reset instead of an end
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()
    wait_until(lambda: metric(address, 'requests_abandoned_total{endpoint="predict"}') == 4, "the count")
    wait_until(lambda: metric(address, "connections ") == 1, "the end of all connections but this one")
    assert caplog.records == []


def test_an_answer_to_one_that_has_just_gone_costs_no_log_line(serve, connect, wait_until, caplog):
    caplog.set_level(logging.WARNING)
    address, place = serve(PATIENT)
    question = HEAD + b'Content-Length: 26\r\n\r\n{"samples": [{"user": 1}]}'
    for _ in range(200):  # some are answered between the end of the connection and the word of that end
        connection = connect(place)
        connection.sendall(question)
        connection.shutdown(socket.SHUT_WR)
        connection.close()
    wait_until(lambda: metric(address, "connections ") == 1, "the end of all connections but this one")
    assert caplog.records == []


def test_a_write_to_a_closed_connection_is_swallowed():
    class Closed:
        def is_closing(self):
            return True

        def write(self, data):
            raise RuntimeError("the handler is closed")

        def get_write_buffer_size(self):
            return 7

    outlet = _Outlet(Closed())
    outlet.write(b"x")
    assert outlet.get_write_buffer_size() == 7


def test_one_that_takes_its_time_within_the_limits_is_served(serve, connect):
    _, place = serve(PATIENT)
    connection = connect(place)
    content = b'{"samples": [{"user": 1}]}'
    for byte in HEAD + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(content) + content:
        connection.sendall(bytes([byte]))
    assert received(connection).startswith(b"HTTP/1.1 200 OK\r\n")


def test_a_server_that_ends_waits_for_no_slow_client(start_server, recommender, url, connect):
    from monolith.serving.server import bind, make_server

    with Replica.open(url, "demo") as replica, bind("127.0.0.1", 0) as listener:
        listener.listen()
        place = listener.getsockname()[:2]
        server = make_server(replica, settings=PATIENT)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        slow = [connect(place), connect(place)]
        slow[0].sendall(b"POST /lookup HTT")
        slow[1].sendall(HEAD + b"Content-Length: 50\r\n\r\n{")
        assert httpx.get(f"http://127.0.0.1:{place[1]}/health").status_code == 200
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


def test_an_answered_refusal_leaves_the_connection_in_use(serve, connect):
    address, _ = serve(PATIENT)
    with httpx.Client() as client:
        for _ in range(3):
            assert client.post(f"{address}/predict", content=b"{").status_code == 400
    assert metric(address, "connections ") == 1
