"""The server and its client, over a real port."""

from __future__ import annotations

import re
import socket
import threading

import httpx
import numpy as np
import pytest

from monolith.config.job import ServeConfig
from monolith.errors import ConfigError, CorruptError, InputError, UnavailableError
from monolith.serving import client as client_module
from monolith.serving.body import CONTENT_TYPE, encode_request
from monolith.serving.client import Client
from monolith.serving.payload import RowFormat
from monolith.serving.replica import Replica
from monolith.serving.server import bind, serve


@pytest.fixture(params=["memory", "direct"])
def address(request, start_server, recommender, url):
    return start_server(Replica.open(url, "demo", request.param), mode=request.param, settings=ServeConfig(max_rows=50))


@pytest.fixture
def client(address):
    with Client(address) as client:
        yield client


def refused(address, path, status, **request) -> str:
    response = httpx.post(address + path, **request)
    assert response.status_code == status, response.text
    return response.json()["error"]


def test_rows_come_back_bit_by_bit_in_binary_and_in_json(client, address, recommender):
    ids = np.array([2, 99, 1], np.int64)
    expected = recommender.tables["user"].lookup(ids)
    answer = client.lookup_versioned("user", ids)
    assert answer.values.tobytes() == expected.tobytes()
    assert (answer.generation, answer.sequence) == (1, 1)
    json = httpx.post(f"{address}/lookup", json={"name": "user", "values": ids.tolist()}).json()
    assert np.array(json["rows"], np.float32).tobytes() == expected.tobytes()
    assert (json["name"], json["dim"], json["generation"], json["sequence"]) == ("user", 4, 1, 1)


def test_string_features_are_looked_up_by_value(client, recommender):
    from monolith.tables.hashing import hash_string

    ids = np.array([hash_string("tags", "new")], np.int64)
    assert np.array_equal(client.lookup("tags", ["new"]), recommender.tables["tags"].lookup(ids))


def test_predictions_are_the_models(client, recommender, samples):
    np.testing.assert_allclose(client.predict(samples), recommender.probabilities(samples), rtol=1e-6)


def test_nothing_asked_is_nothing_answered(client):
    assert client.lookup("user", []).shape == (0, 4)
    assert client.predict([]).shape == (0,)


def test_version_health_and_ready_tell_how_it_is(client, address):
    assert client.health()
    assert client.ready()
    version = client.version()
    assert (version["model"], version["sequence"], version["lineage"], version["ready"]) == ("demo", 1, "run-1", True)
    assert version["stale_ms"] == 0


def test_metrics_count_requests_by_outcome(client, address):
    client.lookup("user", [1, 2])
    refused(address, "/lookup", 400, json={"name": "none", "values": [1]})
    text = httpx.get(f"{address}/metrics").text
    assert 'monolith_replica_requests_total{endpoint="lookup",status="200"} 1.0' in text
    assert 'monolith_replica_requests_total{endpoint="lookup",status="400"} 1.0' in text
    assert 'monolith_replica_rows_total{endpoint="lookup"} 2.0' in text
    assert "monolith_replica_ready 1.0" in text
    assert "monolith_replica_sequence 1.0" in text
    assert "monolith_replica_stale_seconds 0.0" in text


def test_freshness_is_a_metric(start_server, recommender, url):
    replica = Replica.open(url, "demo")
    address = start_server(replica)
    recommender.publish()
    assert replica.wait_for(2, 20)
    text = httpx.get(f"{address}/metrics").text
    assert 'monolith_replica_freshness_seconds{quantile="0.99"}' in text


BAD_BODIES = [
    ("/lookup", b"{", "the body cannot be read"),
    ("/lookup", b"\xff\xfe", "the body cannot be read"),
    ("/lookup", b'{"name": "user"}', "missing required field `values`"),
    ("/lookup", b'{"name": "user", "values": [1], "k": 1}', "unknown field `k`.*should be like"),
    ("/lookup", b'{"name": "user", "values": [1.5]}', r"Expected `int \| str`, got `float`.*values\[0\]"),
    ("/lookup", b'{"name": "user", "values": ["x"]}', "takes an integer"),
    ("/lookup", b'{"name": "user", "values": [9223372036854775808]}', "does not fit 64 bits"),
    ("/lookup", b'{"name": "none", "values": [1]}', "no table or feature 'none', it has"),
    ("/predict", b'{"samples": {"user": 1}}', "Expected `array`"),
    ("/predict", b'{"samples": [{"colour": 1}]}', "unknown_feature"),
    ("/predict", b'{"samples": [{"user": "x"}]}', "takes an integer"),
    ("/predict", b'{"samples": [{"tags": {"a": 1e300}}]}', "from -1000000 to 1000000"),
]


def test_a_bad_json_body_is_400_and_says_why(address):
    for path, content, message in BAD_BODIES:
        error = refused(address, path, 400, content=content, headers={"Content-Type": "application/json"})
        assert re.search(message, error), error


ODD_BODIES = [
    b"", b"\0", b"null", b"[" * 100_000, b'{"samples": [{"a": ' + b"[" * 100_000, b'{"samples": [{"user": NaN}]}',
    b'{"name": "user", "values": [' + b"9" * 5000 + b"]}", b'{"samples": [{"user": 1' + b"0" * 400 + b"}]}",
    b'{"samples": [{"user": 1, "user": 2}]}', b'{"name": "user", "name": "user", "values": []}', b"\x1f\x8b\x08\0",
    b'{"samples": [{"tags": ["\xff"]}]}', b'{"samples": [{"tags": ["\\ud800', b"MLKQ\x01\0\xff\xff\xff\xff\xff\xff",
]  # fmt: skip


def test_odd_bodies_are_4xx_in_words_whatever_they_say_they_are(address, caplog):
    with httpx.Client() as client:
        for content in ODD_BODIES:
            for path in ("/lookup", "/predict"):
                for kind in ("application/json", CONTENT_TYPE, "text/plain", "\xe9", ""):
                    answer = client.post(
                        address + path, content=content, headers={"Content-Type": kind.encode("latin-1")}
                    )
                    assert 400 <= answer.status_code < 500, (content[:40], path, kind, answer.text)
                    assert answer.json()["error"]
    assert caplog.records == []


def test_a_bad_binary_body_is_400_and_says_why(address):
    good = encode_request("user", np.arange(3))
    for content in (b"", good[:-8], good + bytes(4), b"JUNK" + good[4:]):
        assert "body" in refused(address, "/lookup", 400, content=content, headers={"Content-Type": CONTENT_TYPE})


def test_another_content_type_is_415(address):
    assert "allowed are" in refused(address, "/lookup", 415, content=b"1", headers={"Content-Type": "text/csv"})
    assert "allowed are" in refused(address, "/predict", 415, content=b"1", headers={"Content-Type": "text/csv"})


def test_too_many_rows_are_413_and_the_limit_is_named(address, client):
    ids = list(range(51))
    assert "50 are allowed" in refused(address, "/lookup", 413, json={"name": "user", "values": ids})
    assert "50 are allowed" in refused(address, "/predict", 413, json={"samples": [{}] * 51})
    with pytest.raises(InputError, match="50 are allowed"):
        client.lookup("user", ids)


def test_a_body_that_is_too_long_is_not_read_to_its_end(address):
    assert "longer than 51200 bytes" in refused(address, "/lookup", 413, content=b" " * 60_000)


def test_a_path_or_method_that_is_none_is_refused(address):
    assert httpx.get(f"{address}/nothing").status_code == 404
    assert httpx.get(f"{address}/lookup").status_code == 405


def test_before_the_first_model_everything_but_health_is_503(start_server, tmp_path):
    address = start_server(Replica.open(f"lmdb://{tmp_path}/none", "demo", timeout_s=None))
    with Client(address, retries=0) as client:
        assert client.health()
        assert not client.ready()
        for ask in (lambda: client.lookup("user", [1]), lambda: client.predict([{}]), client.version):
            with pytest.raises(UnavailableError, match=r"503.*no model yet"):
                ask()
    assert "monolith_replica_ready 0.0" in httpx.get(f"{address}/metrics").text


def test_a_client_waits_for_a_server_that_becomes_ready(start_server, url, start_recommender, samples, monkeypatch):
    address, pauses = start_server(Replica.open(url, "demo", timeout_s=None)), []

    def train(pause_s: float) -> None:
        pauses.append(pause_s)
        if len(pauses) == 1:
            trainer = start_recommender("run-1")
            trainer.learn(samples)
            trainer.publish()
        threading.Event().wait(0.05)

    monkeypatch.setattr(client_module.time, "sleep", train)
    with Client(address, retries=200) as client:
        assert client.lookup("user", [1]).any()
    assert pauses


def test_a_server_that_is_not_there_is_unavailable_after_all_tries(monkeypatch):
    pauses = []
    monkeypatch.setattr(client_module.time, "sleep", pauses.append)
    with bind("127.0.0.1", 0) as unused:
        port = unused.getsockname()[1]
    with Client(f"http://127.0.0.1:{port}", retries=3) as client:
        with pytest.raises(
            UnavailableError, match=rf"127\.0\.0\.1:{port}/lookup did not answer in 4 tries.*ConnectError"
        ):
            client.lookup("user", [1])
        assert not client.health()
        assert not client.ready()
    assert len(pauses) == 3
    assert max(pauses) <= 0.2


def test_a_server_that_hangs_is_a_time_out():
    with bind("127.0.0.1", 0) as silent:
        silent.listen()
        with (
            Client(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout_s=0.1, retries=0) as client,
            pytest.raises(UnavailableError, match="ReadTimeout"),
        ):
            client.lookup("user", [1])


def test_a_server_that_is_another_one_is_corrupt(in_thread):
    with bind("127.0.0.1", 0) as listener:
        listener.listen()

        def answer() -> None:
            for _ in range(2):
                connection, _ = listener.accept()
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")
                connection.close()

        in_thread(answer)
        with Client(f"http://127.0.0.1:{listener.getsockname()[1]}", retries=0) as client:
            with pytest.raises(CorruptError, match="the answer of"):
                client.lookup("user", [1])
            with pytest.raises(CorruptError, match="is it monolith serve"):
                client.version()


BAD_URLS = [
    "localhost:8000", "ftp://host", "http://", "", "http://h:abc", "http://h:99999", "http://h:-1", "http://[::1",
    "//h", "http://a\0b", "http://" + "a" * 80, "http://a..b", "http://ü..x", "http://" + "a" * 70_000, None, 5,
]  # fmt: skip


@pytest.mark.parametrize("url", BAD_URLS, ids=lambda url: repr(url)[:20])
def test_a_server_url_that_cannot_be_is_a_config_error(url):
    with pytest.raises(ConfigError, match="is not http://HOST:PORT"):
        Client(url)


def test_a_proxy_of_the_environment_that_cannot_be_is_a_config_error(monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "nonsense://proxy")
    with pytest.raises(ConfigError, match="HTTP_PROXY"):
        Client("http://host:8000")


def test_what_is_no_question_is_refused_before_it_is_sent():
    with Client("http://localhost:1", retries=0) as client:
        for samples in ([{"user": object()}], [{"user": "\ud800"}], object()):
            with pytest.raises(InputError, match="no JSON"):
                client.predict(samples)
        for values in ([[1], [2, 3]], 5):
            with pytest.raises(InputError, match="takes a list of values"):
                client.lookup("user", values)
        with pytest.raises(InputError, match="at most 65535 are allowed"):
            client.lookup("u" * 70_000, [1])
    with pytest.raises(InputError, match="closed"):
        client.lookup("user", [1])


ANOTHER_SERVERS = [
    b"Content-Length: 2\r\n\r\n[]",
    b"Content-Length: 2\r\n\r\n{}",
    b'Content-Length: 22\r\n\r\n{"probabilities": "no"}',
    b"Content-Length: 4\r\nContent-Encoding: gzip\r\n\r\nabcd",
    b"Content-Length: 3\r\n\r\n\xff\xfe\xfd",
]


@pytest.mark.parametrize("answer", ANOTHER_SERVERS)
def test_an_answer_of_another_kind_is_corrupt(in_thread, answer):
    with bind("127.0.0.1", 0) as listener:
        listener.listen()

        def serve_once() -> None:
            connection, _ = listener.accept()
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n" + answer)
            connection.close()

        in_thread(serve_once)
        with (
            Client(f"http://127.0.0.1:{listener.getsockname()[1]}", retries=0) as client,
            pytest.raises(CorruptError, match="the answer of"),
        ):
            client.predict([{}])


def test_a_damaged_store_is_words_at_every_path(start_server, recommender, url):
    from monolith.serving import ledger

    address = start_server(Replica.open(url, "demo", "direct"), mode="direct")
    with recommender.store._transaction(write=True) as txn:
        txn.put("head", ledger.seal(b"{}")[:-1] + b"x")
    assert "checksum" in httpx.get(f"{address}/ready").json()["error"]
    assert httpx.get(f"{address}/ready").status_code == httpx.get(f"{address}/version").status_code == 503
    assert "checksum" in refused(address, "/lookup", 500, json={"name": "user", "values": [1]})
    assert "checksum" in refused(address, "/predict", 500, json={"samples": [{}]})
    assert "monolith_replica_ready 0.0" in httpx.get(f"{address}/metrics").text


def test_a_path_that_is_none_is_told_the_paths_that_are(address):
    assert "POST /lookup and /predict" in httpx.get(f"{address}/nothing").json()["error"]


def test_a_port_in_use_is_a_config_error_that_names_it(url):
    with bind("127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"cannot listen on 127\.0\.0\.1:{port}.*in use.*another port"):
            serve(url, "demo", port=port)


@pytest.mark.parametrize(("host", "port"), [("127.0.0.1", 70_000), ("no.such.host.invalid", 0), ("a..b", 0)])
def test_an_address_that_cannot_be_is_a_config_error(url, host, port):
    with pytest.raises(ConfigError, match="cannot listen on"):
        serve(url, "demo", host=host, port=port)


def test_a_bad_store_url_is_told_before_anything_is_served():
    with pytest.raises(ConfigError, match="allowed are"):
        serve("ftp://store", "demo", port=0)


def test_serving_ends_at_a_signal(url, recommender):
    """In a process of its own, as the command runs it."""
    import signal
    import subprocess
    import sys

    code = """if True:
        import sys
        from monolith.serving import serve
        serve(sys.argv[1], "demo", port=0, on_listening=lambda address: print(address, flush=True))
    """
    process = subprocess.Popen([sys.executable, "-c", code, url], stdout=subprocess.PIPE, text=True)
    with Client(process.stdout.readline().strip(), retries=10) as client:
        assert client.lookup("user", [1]).any()
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert not client.health()
    process.stdout.close()


def test_an_ipv6_address_is_written_as_one():
    from monolith.serving.server import _address

    if not socket.has_ipv6:
        pytest.skip("this machine has no IPv6")
    try:
        listener = bind("::1", 0)
    except ConfigError:
        pytest.skip("this machine has no IPv6 loopback")
    with listener:
        assert _address(listener).startswith("http://[::1]:")


def test_clients_get_float32_from_a_model_of_any_payload(start_server, start_recommender, url, samples):
    packed = start_recommender("run-8", "int8_rowwise")
    packed.learn(samples)
    packed.tables["user"].apply_gradients(np.array([1, 2]), np.array([[0.1, 0.2, 0.7, 3], [0, -1, 2, 5]], np.float32))
    packed.publish()
    ids = np.array([2, 99, 1], np.int64)
    wanted = RowFormat("int8_rowwise", 4).served(packed.tables["user"].lookup(ids))
    assert not np.array_equal(wanted, packed.tables["user"].lookup(ids))
    for mode in ("memory", "direct"):
        address = start_server(Replica.open(url, "demo", mode), mode=mode)
        with Client(address) as client:
            assert client.lookup("user", ids).tobytes() == wanted.tobytes()
            json = httpx.post(f"{address}/lookup", json={"name": "user", "values": [2]}).json()
            assert json["rows"][0] == wanted[0].tolist()
            assert client.version()["payload"] == "int8_rowwise"
            assert client.predict(samples) == pytest.approx(packed.probabilities(samples), abs=0.01)
