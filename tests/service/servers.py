"""A Redis server and a Kafka broker of one's own, to be killed and started again."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import subprocess
import time
from pathlib import Path


class RedisServer:
    """A redis-server of the tests' own, in a folder of its own, without persistence unless asked for."""

    def __init__(self, binary: str, folder) -> None:
        self._binary = binary
        self.folder = folder
        self._process: subprocess.Popen | None = None
        self.port = free_port()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self, *options: str) -> None:
        """Start on the same port as before, and wait until it answers."""
        fixed = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)]
        silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.STDOUT}
        self._process = subprocess.Popen([self._binary, *fixed, "--save", "", *options], **silent)
        deadline = time.monotonic() + 20
        while not self._answers():
            assert self._process.poll() is None, "redis-server ended at its start"
            assert time.monotonic() < deadline, "redis-server did not answer within 20 s"
            time.sleep(0.02)

    def kill(self) -> None:
        """End it at once, as a crash would; what it held is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def client(self):
        import redis

        return redis.Redis(port=self.port)

    def _answers(self) -> bool:
        import redis

        try:
            with redis.Redis(port=self.port, socket_timeout=1) as client:
                return client.ping()
        except (redis.exceptions.RedisError, OSError):
            return False


class Kafka:
    """A broker that runs already, in which the tests make topics of their own."""

    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap

    def url(self, topic: str) -> str:
        return f"kafka://{self.bootstrap}/{topic}"

    def create(self, topic: str, partitions: int = 1, **settings: str) -> str:
        """Make a topic that keeps historic event times; its URL. In ``settings`` an underscore stands for a dot."""
        from kafka import KafkaAdminClient
        from kafka.admin import NewTopic

        configs = {"retention.ms": "-1"} | {name.replace("_", "."): value for name, value in settings.items()}
        admin = KafkaAdminClient(bootstrap_servers=self.bootstrap)
        try:
            new = NewTopic(name=topic, num_partitions=partitions, replication_factor=1, topic_configs=configs)
            admin.create_topics([new])
        finally:
            admin.close()
        return self.url(topic)


class KafkaBroker(Kafka):
    """One Apache Kafka node (KRaft) of the tests' own, in a folder of its own; it keeps its data over a kill."""

    def __init__(self, libs: Path, folder: Path) -> None:
        self._classes = f"{libs}/*"
        self.folder = folder
        self._process: subprocess.Popen | None = None
        port, controller = free_port(), free_port()
        super().__init__(f"127.0.0.1:{port}")
        (folder / "server.properties").write_text(_properties(folder, port, controller))

    def format(self, *options: str) -> None:
        """Once, before the first start."""
        settings = str(self.folder / "server.properties")
        cluster = "MkU3OEVBNTcwNTJENDM2Qk"  # any id of this form
        command = self._java(
            "kafka.tools.StorageTool", "format", "--standalone", "-t", cluster, "-c", settings, *options
        )
        subprocess.run(command, check=True, capture_output=True, timeout=60)

    def start(self) -> None:
        """Start on the same port as before, and wait until it answers."""
        with (self.folder / "broker.log").open("ab") as output:
            command = self._java("kafka.Kafka", str(self.folder / "server.properties"))
            self._process = subprocess.Popen(command, stdout=output, stderr=output)
        deadline = time.monotonic() + 60
        while not self._answers():
            assert self._process.poll() is None, (self.folder / "broker.log").read_text()[-3000:]
            assert time.monotonic() < deadline, "the broker did not answer within 60 s"
            time.sleep(0.05)

    def kill(self) -> None:
        """End it at once, as a crash would; acknowledged records are still there."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _java(self, *words: str) -> list[str]:
        quick = ["-Xms128m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
        quiet = "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"
        return ["java", *quick, quiet, "-cp", self._classes, *words]

    def _answers(self) -> bool:
        from kafka import KafkaAdminClient
        from kafka.errors import KafkaError

        try:
            admin = KafkaAdminClient(bootstrap_servers=self.bootstrap, bootstrap_timeout_ms=1000)
        except (KafkaError, OSError):
            return False
        try:
            admin.list_topics()
        except KafkaError:
            return False
        finally:
            admin.close()
        return True


def _properties(folder: Path, port: int, controller: int) -> str:
    """One node that starts in seconds, forgets dead members soon, and looks at retention every second."""
    settings = {
        "process.roles": "broker,controller",
        "node.id": 1,
        "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}",
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "PLAINTEXT",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "controller.quorum.bootstrap.servers": f"127.0.0.1:{controller}",
        "log.dirs": folder / "log",
        "offsets.topic.replication.factor": 1,
        "offsets.topic.num.partitions": 4,
        "transaction.state.log.replication.factor": 1,
        "transaction.state.log.min.isr": 1,
        "transaction.state.log.num.partitions": 4,
        "share.coordinator.state.topic.replication.factor": 1,
        "share.coordinator.state.topic.min.isr": 1,
        "broker.session.timeout.ms": 2000,
        "broker.heartbeat.interval.ms": 300,
        "group.initial.rebalance.delay.ms": 0,
        "log.retention.check.interval.ms": 1000,
        "log.initial.task.delay.ms": 1000,
        "num.network.threads": 1,
        "num.io.threads": 2,
    }
    return "".join(f"{name}={value}\n" for name, value in settings.items())


def free_port() -> int:
    """A port nobody listens on, below those of outgoing connections, from a range of this test process alone."""
    process = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    first = 10_000 + 1_000 * (process % 20)
    while True:
        port = first + secrets.randbelow(1_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
