"""Brokers and stores that want a user, speak TLS, or ask for a certificate."""

from __future__ import annotations

import pytest
from secured import ENCODED, PASSWORD, USER
from servers import free_port

from monolith.errors import ConfigError, UnavailableError
from monolith.serving.store import open_store
from monolith.streaming.source import open_sink, open_source

pytestmark = pytest.mark.service

WITH_USER = f"kafka://{USER}:{ENCODED}@"
TRUSTED = "tls_ca={folder}/server.pem"
OWN = "tls_certificate={folder}/client.pem&tls_key={folder}/client.key"
IN_CLEAR = "security_protocol=SASL_PLAINTEXT"
SCRAM = "sasl_mechanism=SCRAM-SHA-512"

GOOD = {
    "password over TLS": (WITH_USER, "sasltls", TRUSTED),
    "SCRAM over TLS": (WITH_USER, "sasltls", f"{SCRAM}&{TRUSTED}"),
    "password in clear": (WITH_USER, "saslplain", IN_CLEAR),
    "SCRAM in clear": (WITH_USER, "saslplain", f"{IN_CLEAR}&{SCRAM}"),
    "certificate": ("kafka://", "tls", f"security_protocol=SSL&{TRUSTED}&{OWN}"),
    "certificate and key in a file": (
        "kafka://",
        "tls",
        f"security_protocol=SSL&{TRUSTED}&tls_certificate={{folder}}/client.both.pem",
    ),
}
BAD = {
    "wrong password": ("kafka://alice:hunter2no@", "sasltls", TRUSTED, "refuses this user"),
    "wrong password, SCRAM": ("kafka://alice:hunter2no@", "sasltls", f"{TRUSTED}&{SCRAM}", "refuses this user"),
    "unknown mechanism": (WITH_USER, "sasltls", f"{TRUSTED}&sasl_mechanism=SCRAM-SHA-256", "sasl_mechanism"),
    "no trust": (WITH_USER, "sasltls", "", "not trusted"),
    "trust in another": (WITH_USER, "sasltls", "tls_ca={folder}/other.pem", "not trusted"),
    "no certificate": ("kafka://", "tls", f"security_protocol=SSL&{TRUSTED}", "wants one"),
    "no TLS": ("kafka://", "sasltls", "", "does not speak Kafka without TLS"),
    "user on an open port": (WITH_USER, "plaintext", IN_CLEAR, "takes no user on this port"),
}


def _url(broker, certificates, form: tuple[str, str, str], topic: str = "topic") -> str:
    begin, listener, options = form
    return f"{begin}127.0.0.1:{broker.ports[listener]}/{topic}?" + options.format(folder=certificates)


@pytest.mark.parametrize("form", GOOD.values(), ids=GOOD)
def test_what_a_secured_broker_took_is_read_from_it(secured_kafka, certificates, form):
    url = _url(secured_kafka, certificates, form)
    sink = open_sink(url)
    sink.append([(b"key", repr(form).encode(), 5)])
    sink.close()
    source = open_source(url)
    try:
        source.seek({0: source.end_position()[0] - 1})
        polled = []
        while not polled:
            polled = source.poll(10, 1.0)
        assert [record.value for record in polled] == [repr(form).encode()]
    finally:
        source.close()


@pytest.mark.parametrize("form", BAD.values(), ids=BAD)
def test_refusal_ends_a_source_that_waits_with_the_reason(secured_kafka, certificates, form):
    *form, says = form
    with pytest.raises(ConfigError, match=says) as refused:
        _read(_url(secured_kafka, certificates, tuple(form)))
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("options", ["", "&partitions=1"], ids=["topic", "topic to be made"])
def test_refusal_ends_an_append_with_the_reason(secured_kafka, certificates, options):
    sink = open_sink(_url(secured_kafka, certificates, (WITH_USER, "sasltls", "tls_ca={folder}/other.pem")) + options)
    with pytest.raises(ConfigError, match="not trusted") as refused:
        sink.append([(b"key", b"value", 5)])
    assert "hunter2" not in str(refused.value)


def _read(url: str) -> None:
    """Until something comes: a refusal may come at a second try, since a broker takes its time to say so."""
    source = open_source(url, wait=True)
    try:
        for _ in range(20):
            source.poll(1, 0.2)
    finally:
        source.close()


@pytest.fixture
def secured_redis(redis_server, certificates):
    """A Redis that has a TLS port beside its own and asks for the client's certificate; the URL."""
    redis_server.kill()
    port = free_port()
    own = ("--tls-cert-file", f"{certificates}/server.pem", "--tls-key-file", f"{certificates}/server.key")
    redis_server.start("--tls-port", str(port), *own, "--tls-ca-cert-file", f"{certificates}/client.pem")
    return f"rediss://127.0.0.1:{port}/0"


@pytest.mark.e2e
def test_a_job_runs_from_a_secured_broker_to_a_secured_store(
    kit, secured_kafka, secured_redis, certificates, monkeypatch
):
    monkeypatch.setenv("KAFKA_PASSWORD", PASSWORD)
    open_port = [secured_kafka.create(name) for name in ("shown", "done")]
    kit.fill(*open_port, count=300)
    form = (f"kafka://{USER}:${{KAFKA_PASSWORD}}@", "sasltls", TRUSTED)
    features, actions = (_url(secured_kafka, certificates, form, topic) for topic in ("shown", "done"))
    store = f"{secured_redis}?{TRUSTED}&{OWN}".format(folder=certificates)
    job = kit.job("secured", input={"features": features, "actions": actions}, store=store)
    trained = kit.run("train", job)
    assert trained.returncode == 0, trained.stderr
    seen = kit.run("inspect", store, "--against", "secured/state")
    assert "0 missing, 0 stale, 0 zombie" in seen.stdout, seen.stdout + seen.stderr
    assert "hunter2" not in trained.stdout + trained.stderr + seen.stdout + seen.stderr
    assert [path for path in kit.folder.rglob("*") if path.is_file() and b"hunter2" in path.read_bytes()] == []


@pytest.mark.e2e
def test_a_job_with_a_wrong_password_ends_with_one_line(kit, secured_kafka, certificates, monkeypatch):
    monkeypatch.setenv("KAFKA_PASSWORD", "hunter2no")
    features = _url(secured_kafka, certificates, (f"kafka://{USER}:${{KAFKA_PASSWORD}}@", "sasltls", TRUSTED))
    job = kit.job("wrong", input={"features": features, "actions": features, "follow": True})
    ended = kit.run("train", job)
    assert ended.returncode == 1
    assert "the broker refuses this user" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "hunter2" not in ended.stdout + ended.stderr


@pytest.mark.parametrize(
    ("options", "says"),
    [("", "certificate verify failed"), (f"{TRUSTED}", "certificate required|does not answer")],
    ids=["no trust", "no certificate"],
)
def test_store_over_tls_that_refuses_says_why(secured_redis, certificates, options, says):
    store = open_store(f"{secured_redis}?{options}".format(folder=certificates), "demo")
    with pytest.raises(UnavailableError, match=f"(?i){says}"):
        store.look()
    store.close()
