"""Several servers of one model, and the client for asyncio."""

from __future__ import annotations

import asyncio
import inspect
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from monolith.errors import ConfigError, InputError, UnavailableError
from monolith.serving import async_client, failover
from monolith.serving import client as client_module
from monolith.serving.async_client import AsyncClient
from monolith.serving.client import Client
from monolith.serving.errors import BrokenAnswerError, BusyError, TimedOutError, UnreachableError
from monolith.serving.failover import Servers
from monolith.serving.replica import Replica
from monolith.serving.server import bind


@pytest.fixture
def address(start_server, recommender, url):
    return start_server(Replica.open(url, "demo"))


@pytest.fixture
def gone():
    """The address of a server that is not there."""
    with bind("127.0.0.1", 0) as unused:
        port = unused.getsockname()[1]
    return f"http://127.0.0.1:{port}"


class Clock:
    """Time that stands until it is moved."""

    def __init__(self, monkeypatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(failover.time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def order(servers: Servers, retries: int = 0) -> list[int]:
    return [one.server for one in servers.tries(retries)]


# --- which is asked next ---


def test_servers_take_turns():
    servers = Servers(3)
    assert [order(servers)[0] for _ in range(6)] == [0, 1, 2, 0, 1, 2]


def test_a_question_is_tried_on_every_server_and_then_again_after_a_pause():
    servers = Servers(2)
    assert order(servers) == [0, 1]
    tries = list(servers.tries(4))
    assert [one.server for one in tries] == [1, 0, 0, 1, 1]
    assert [one.pause_s > 0 for one in tries] == [False, False, True, False, True]
    assert [one.pause_s > 0 for one in Servers(1).tries(3)] == [False, True, True, True]


def test_a_server_that_failed_rests_longer_with_every_failure_and_is_asked_last(clock):
    servers = Servers(3)
    servers.failed(1)
    assert all(order(servers)[2] == 1 for _ in range(3))
    clock.now += failover.FIRST_REST_S + 0.01
    assert {order(servers)[0] for _ in range(3)} == {0, 1, 2}
    for _ in range(100):
        servers.failed(1)
    clock.now += failover.MAX_REST_S - 1
    assert all(order(servers)[2] == 1 for _ in range(3))
    servers.answered(1)
    assert {order(servers)[0] for _ in range(3)} == {0, 1, 2}


def test_where_all_rest_the_one_that_rests_shortest_is_asked(clock):
    servers = Servers(2)
    for _ in range(3):
        servers.failed(0)
    servers.failed(1)
    assert [order(servers)[0] for _ in range(2)] == [1, 1]


# --- over the network ---


def asked(client, name: str, *arguments):
    """What a method of either client answers."""
    made = getattr(client, name)(*arguments)
    return client.loop.run_until_complete(made) if inspect.isawaitable(made) else made


@pytest.fixture(params=[Client, AsyncClient])
def connect(request, monkeypatch):
    """Makes clients of either kind; their pauses take no time and are noted."""
    made, loop, pauses = [], asyncio.new_event_loop(), []

    async def rested(pause_s: float) -> None:
        pauses.append(pause_s)

    monkeypatch.setattr(client_module, "time", SimpleNamespace(sleep=pauses.append))
    monkeypatch.setattr(async_client, "asyncio", SimpleNamespace(sleep=rested))

    def start(*arguments, **options):
        made.append(request.param(*arguments, **options))
        made[-1].loop, made[-1].pauses = loop, pauses
        return made[-1]

    yield start
    for client in made:
        asked(client, "close")
    loop.close()


def test_either_client_has_the_same_surface_and_answers(connect, address, recommender, samples):
    client = connect(address)
    ids = np.array([2, 99, 1])
    assert asked(client, "lookup", "user", ids).tobytes() == recommender.tables["user"].lookup(ids).tobytes()
    assert asked(client, "lookup_versioned", "user", [1]).sequence == 1
    assert asked(client, "lookup", "tags", ["new"]).shape == (1, 4)
    assert asked(client, "lookup_together", {"user": [1, 99]}).rows["user"].found.tolist() == [True, False]
    np.testing.assert_allclose(asked(client, "predict", samples), recommender.probabilities(samples), rtol=1e-6)
    assert asked(client, "predict_candidates", {"user": 1}, {"movie": [10, 11]}).shape == (2,)
    assert asked(client, "version")["model"] == "demo"
    assert asked(client, "ready")
    assert asked(client, "health")


def test_the_clients_take_the_same_words():
    def words(kind: type) -> dict[str, list[str]]:
        public = {name: one for name, one in vars(kind).items() if not name.startswith("_") or name == "__init__"}
        return {name: list(inspect.signature(one).parameters) for name, one in public.items()}

    assert words(Client) == words(AsyncClient)


def test_a_server_that_is_gone_is_passed_over(connect, address, gone):
    client = connect([gone, address], retries=0)
    for _ in range(10):
        assert asked(client, "lookup", "user", [1]).any()
    assert client.pauses == []
    assert asked(client, "ready")


def test_a_server_without_a_model_is_passed_over(connect, address, start_server, tmp_path):
    empty = start_server(Replica.open(f"lmdb://{tmp_path}/none", "demo", timeout_s=None))
    client = connect([empty, address])
    assert all(asked(client, "lookup", "user", [1]).any() for _ in range(4))
    with pytest.raises(BusyError, match=r"503.*no model yet"):
        asked(connect(empty, retries=1), "lookup", "user", [1])


def test_a_server_that_dies_loses_no_question(start_server, recommender, url, in_thread):
    """Half of the questions go to a server that ends while they are asked."""
    from monolith.serving.server import make_server

    replica, listener = Replica.open(url, "demo"), bind("127.0.0.1", 0)
    listener.listen()
    dying = make_server(replica)
    thread = threading.Thread(target=dying.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    first = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with Client([first, start_server(Replica.open(url, "demo"))]) as client:
        for number in range(300):
            if number == 100:
                dying.should_exit = True
            assert client.lookup("user", [1]).any()
    thread.join(20)
    replica.close()


def test_where_all_are_gone_the_error_names_all_and_is_of_the_last_ones_kind(connect, gone):
    client = connect([gone, gone.replace("127.0.0.1", "localhost")], retries=3)
    with pytest.raises(UnreachableError, match=r"127\.0\.0\.1.*localhost.*4 tries"):
        asked(client, "lookup", "user", [1])
    assert len(client.pauses) == 1
    assert not asked(client, "ready")
    assert not asked(client, "health")


def test_a_refusal_is_no_reason_to_ask_another_server(connect, address, gone):
    with pytest.raises(InputError, match="no table or feature"):
        asked(connect([address, gone]), "lookup", "none", [1])


def test_a_server_that_hangs_is_a_time_out(connect):
    with bind("127.0.0.1", 0) as silent:
        silent.listen()
        client = connect(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout_s=0.1, retries=0)
        with pytest.raises(TimedOutError, match="ReadTimeout"):
            asked(client, "lookup", "user", [1])


def test_another_server_is_a_broken_answer(connect, in_thread):
    with bind("127.0.0.1", 0) as listener:
        listener.listen()

        def answer() -> None:
            for _ in range(4):
                connection, _ = listener.accept()
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")
                connection.close()

        in_thread(answer)
        client = connect(f"http://127.0.0.1:{listener.getsockname()[1]}")
        for name, arguments in (
            ("lookup", ("user", [1])),
            ("lookup_together", ({"user": [1]},)),
            ("predict", ([{}],)),
            ("predict_candidates", ({}, {"movie": [1]})),
        ):
            with pytest.raises(BrokenAnswerError):
                asked(client, name, *arguments)


def test_questions_of_one_loop_go_at_the_same_time(address):
    async def ask() -> list[np.ndarray]:
        async with AsyncClient(address) as client:
            return await asyncio.gather(*(client.lookup("user", [number % 3]) for number in range(50)))

    rows = asyncio.run(ask())
    assert len(rows) == 50
    assert rows[1].tobytes() == rows[4].tobytes() != rows[0].tobytes()


@pytest.mark.parametrize("urls", [[], (), ["http://a", "b"], [None]])
def test_urls_that_cannot_be_are_refused(connect, urls):
    with pytest.raises(ConfigError, match="http://HOST:PORT"):
        connect(urls)


def test_every_error_of_asking_in_vain_is_unavailable():
    assert all(issubclass(kind, UnavailableError) for kind in (BusyError, TimedOutError, UnreachableError))
