"""The servers that the service tests start themselves, from `servers`, and empty stores of every kind."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from secured import SecuredBroker, make_certificates
from servers import Kafka, KafkaBroker, RedisServer

from monolith.serving.store import open_store


@pytest.fixture
def redis_server(tmp_path):
    """A running, empty redis-server, ended after the test."""
    binary = shutil.which("redis-server")
    if binary is None:
        _cannot("no redis-server on the path: apt-get install redis-server, or brew install redis")
    folder = tmp_path / "redis"
    folder.mkdir()
    server = RedisServer(binary, folder)
    server.start()
    yield server
    server.kill()


@pytest.fixture
def own_kafka(tmp_path):
    """A running, empty broker that the test may kill, ended after the test."""
    with _broker(tmp_path / "kafka") as broker:
        yield broker


@pytest.fixture(scope="session")
def kafka(tmp_path_factory):
    """A running broker for topics of one's own: the one that MONOLITH_KAFKA_BOOTSTRAP names, or one of ours."""
    bootstrap = os.environ.get("MONOLITH_KAFKA_BOOTSTRAP")
    with contextlib.nullcontext(Kafka(bootstrap)) if bootstrap else _broker(tmp_path_factory.mktemp("kafka")) as broker:
        yield broker


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """A folder with the certificates and keys ``server``, ``client`` and ``other``."""
    if shutil.which("openssl") is None:
        _cannot("no openssl on the path to make certificates with: apt-get install openssl")
    folder = tmp_path_factory.mktemp("certificates")
    make_certificates(folder, "server", "client", "other")
    return folder


@pytest.fixture(scope="module")
def secured_kafka(tmp_path_factory, certificates):
    """A running broker with ports for users and certificates; it has the topic ``topic``."""
    with _broker(
        tmp_path_factory.mktemp("secured"), lambda libs, folder: SecuredBroker(libs, folder, certificates)
    ) as broker:
        broker.create("topic")
        yield broker


@contextlib.contextmanager
def _broker(folder: Path, kind: Callable[[Path, Path], KafkaBroker] = KafkaBroker) -> Iterator[KafkaBroker]:
    home = os.environ.get("KAFKA_HOME")
    if home is None or not (Path(home) / "libs").is_dir():
        _cannot("KAFKA_HOME names no Kafka: set it to a folder with Kafka's libs/ (any Kafka download)")
    if shutil.which("java") is None:
        _cannot("no java on the path: apt-get install default-jre-headless")
    folder.mkdir(exist_ok=True)
    broker = kind(Path(home) / "libs", folder)
    broker.format()
    broker.start()
    try:
        yield broker
    finally:
        broker.kill()


@pytest.fixture(params=["lmdb", pytest.param("redis", marks=pytest.mark.service)])
def address(request, tmp_path):
    """The URL of an empty store; a test that asks for it runs on each kind."""
    return f"lmdb://{tmp_path}/store" if request.param == "lmdb" else request.getfixturevalue("redis_server").url


@pytest.fixture
def connect(address):
    """Opens the same store again, as another process would; closes all in the end."""
    stores = []

    def opened(options: str = "", model: str = "demo"):
        stores.append(open_store(address + options, model))
        return stores[-1]

    yield opened
    for store in stores:
        store.close()


@pytest.fixture
def store(connect):
    return connect()


@pytest.fixture
def topic():
    """A topic's name that no other test has."""
    return f"monolith-test-{secrets.token_hex(4)}"


def _cannot(reason: str) -> None:
    """Skip and say what to do; where everything is meant to be there, fail."""
    (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
