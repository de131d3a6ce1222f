"""Bearer tokens and TLS: who may ask, what a client must show, and that no token is ever told."""

from __future__ import annotations

import logging
import shutil
import ssl
import subprocess

import httpx
import pytest

from monolith.config.job import ServeConfig
from monolith.errors import ConfigError, InputError, UnavailableError
from monolith.serving.client import Client
from monolith.serving.errors import UnauthorizedError, UnreachableError
from monolith.serving.guard import Tokens, load_tokens
from monolith.serving.replica import Replica
from monolith.serving.server import make_server, serve

TOKEN, OTHER = "a-token-of-some-length", "another-token"
PATHS = ("/lookup", "/predict", "/ready", "/version", "/metrics", "/openapi.json", "/docs", "/nothing")


@pytest.fixture
def token_file(tmp_path):
    path = tmp_path / "tokens"
    path.write_text(f"{TOKEN}\n\n{OTHER}\n")
    return path


@pytest.fixture
def guarded(start_server, recommender, url, token_file):
    return start_server(Replica.open(url, "demo"), settings=ServeConfig(token_file=str(token_file)))


def test_health_is_open_and_everything_else_is_not(guarded):
    assert httpx.get(f"{guarded}/health").status_code == 200
    for path in PATHS:
        for method in ("GET", "POST"):
            refused = httpx.request(method, guarded + path)
            assert refused.status_code == 401, path
            assert refused.headers["WWW-Authenticate"] == "Bearer"
            assert "Authorization: Bearer TOKEN" in refused.json()["error"]
    for path in ("/health/", "//health", "/HEALTH", "/ready?/health"):
        assert httpx.get(guarded + path).status_code == 401, path


WRONG = ["", TOKEN, f"Basic {TOKEN}", "Bearer", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", "Bearer \xff"]


@pytest.mark.parametrize("header", WRONG)
def test_a_wrong_token_is_none(guarded, header):
    refused = httpx.get(f"{guarded}/version", headers={"Authorization": header.encode("latin-1")})
    assert refused.status_code == 401
    assert TOKEN not in refused.text


@pytest.mark.parametrize("token", [TOKEN, OTHER])
def test_a_client_with_one_of_the_tokens_is_answered(guarded, recommender, token):
    with Client(guarded, token=token) as client:
        assert client.ready()
        assert client.lookup("user", [1]).any()
        assert client.predict_candidates({"user": 1}, {"movie": [10]}).shape == (1,)
        assert client.version()["model"] == "demo"
    lower = httpx.get(f"{guarded}/version", headers={"Authorization": f"bearer {token}"})
    assert lower.status_code == 200


def test_a_client_without_one_is_told_so_at_once_by_type(guarded):
    for token in (None, "wrong"):
        with Client(guarded, token=token) as client:
            with pytest.raises(UnauthorizedError, match="401") as refused:
                client.lookup("user", [1])
            assert refused.value.status == 401
            assert client.health()
            assert not client.ready()


def test_requests_without_a_token_are_counted(guarded):
    httpx.get(f"{guarded}/version")
    httpx.post(f"{guarded}/lookup", content=b"x" * 100_000)
    text = httpx.get(f"{guarded}/metrics", headers={"Authorization": f"Bearer {TOKEN}"}).text
    assert "monolith_replica_requests_unauthorized_total 2.0" in text
    assert TOKEN not in text


def test_a_token_may_come_from_the_environment(monkeypatch, token_file):
    monkeypatch.setenv("SERVE_TOKEN", "third")
    tokens = load_tokens(ServeConfig(token_file=str(token_file), token_variable="SERVE_TOKEN"))
    assert all(tokens.admit(f"Bearer {token}".encode()) for token in (TOKEN, OTHER, "third"))
    assert not tokens.admit(b"Bearer fourth")
    assert not tokens.admit(None)
    assert len(load_tokens(ServeConfig())) == 0


def test_every_token_is_compared_whichever_is_right(monkeypatch):
    compared = []
    monkeypatch.setattr("hmac.compare_digest", lambda left, right: compared.append(len(right)) or left == right)
    tokens = Tokens(["a", "b" * 100, "c"])
    for given in (b"a", b"c", b"wrong"):
        tokens.admit(b"Bearer " + given)
    assert compared == [32] * 9


def test_settings_that_cannot_be_are_refused_without_the_token(tmp_path, monkeypatch, url):
    monkeypatch.setenv("ODD", "two secrets")
    monkeypatch.setenv("EMPTY", " ")
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "odd").write_text("a secret\n")
    (tmp_path / "binary").write_bytes(b"\xffsecret\n")
    files = [{"token_file": str(tmp_path / name)} for name in ("empty", "odd", "binary", "none")]
    for setting in [*files, *({"token_variable": name} for name in ("ODD", "EMPTY", "NOT_THERE"))]:
        with pytest.raises(ConfigError, match=r"serve\.token_") as refused:
            serve(url, "demo", port=0, settings=ServeConfig(**setting))
        assert "secret" not in str(refused.value)


@pytest.mark.parametrize("token", ["", "two words", "a\nb", "tokén"])
def test_a_token_that_cannot_be_sent_is_refused_without_it(token):
    with pytest.raises(ConfigError, match="the token is empty") as refused:
        Client("http://host", token=token)
    assert not token or token not in str(refused.value)


def test_no_token_is_in_a_log_or_an_error(guarded, caplog):
    caplog.set_level(logging.DEBUG)
    with Client(guarded, token=TOKEN, retries=0) as client, pytest.raises(InputError) as refused:
        client.lookup("none", [1])
    with Client("http://127.0.0.1:1", token=TOKEN, retries=0) as client, pytest.raises(UnavailableError) as away:
        client.lookup("user", [1])
    for text in (str(refused.value), str(away.value), repr(client.__dict__), caplog.text):
        assert TOKEN not in text


# --- TLS ---


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """Certificate and key of 127.0.0.1, signed by themselves; and another key."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl on the path to make a certificate with: apt-get install openssl")
    folder = tmp_path_factory.mktemp("tls")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=test -out"
    names = ["-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
    for name in ("server", "other"):
        files = [f"{folder}/{name}.pem", "-keyout", f"{folder}/{name}.key"]
        subprocess.run([*command.split(), *files, *names], check=True, capture_output=True)
    return folder


@pytest.fixture
def secured(start_server, recommender, url, certificates, token_file):
    files = {"tls_certificate": f"{certificates}/server.pem", "tls_key": f"{certificates}/server.key"}
    settings = ServeConfig(token_file=str(token_file), **files)
    return start_server(Replica.open(url, "demo"), settings=settings).replace("http:", "https:")


def test_a_client_that_trusts_the_certificate_is_answered(secured, certificates, recommender, samples):
    with Client(secured, token=TOKEN, ca_file=certificates / "server.pem") as client:
        assert client.lookup("user", [1]).any()
        assert len(client.predict(samples * 200)) == 600
    with Client(secured, ca_file=certificates / "server.pem") as client, pytest.raises(UnauthorizedError):
        client.lookup("user", [1])


def test_a_client_that_does_not_gets_no_answer(secured, certificates):
    for ca_file in (None, certificates / "other.pem"):
        with Client(secured, token=TOKEN, ca_file=ca_file, retries=0) as client:
            with pytest.raises(UnreachableError, match="certificate"):
                client.lookup("user", [1])
            assert not client.health()


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
def test_old_versions_of_tls_are_refused(secured, certificates):
    context = ssl.create_default_context(cafile=str(certificates / "server.pem"))
    context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{secured}/health", verify=context)


def test_files_that_do_not_belong_together_are_refused_before_anything_is_served(
    recommender, url, certificates, tmp_path
):
    (tmp_path / "no.pem").write_text("no certificate")
    server, other = f"{certificates}/server.pem", f"{certificates}/other.key"
    with Replica.open(url, "demo") as replica:
        for files in (
            {"tls_certificate": server, "tls_key": other},
            {"tls_certificate": server},
            {"tls_certificate": str(tmp_path / "none.pem"), "tls_key": other},
            {"tls_certificate": str(tmp_path / "no.pem")},
            {"tls_key": other},
        ):
            with pytest.raises(ConfigError, match=r"serve\.tls_"):
                make_server(replica, settings=ServeConfig(**files))


def test_certificates_to_trust_that_cannot_be_read_are_refused(tmp_path):
    (tmp_path / "no.pem").write_text("no certificate")
    for name in ("no.pem", "none.pem"):
        with pytest.raises(ConfigError, match="give a PEM file"):
            Client("https://host", ca_file=tmp_path / name)
