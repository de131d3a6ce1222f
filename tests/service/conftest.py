"""Servers that the service tests start themselves."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time

import pytest


class RedisServer:
    """A redis-server of the tests' own, in a folder of its own, without persistence unless asked for."""

    def __init__(self, binary: str, folder) -> None:
        self._binary = binary
        self.folder = folder
        self._process: subprocess.Popen | None = None
        self.port = _free_port()

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


@pytest.fixture
def redis_server(tmp_path):
    """A running, empty redis-server, ended after the test."""
    binary = shutil.which("redis-server")
    if binary is None:
        reason = "no redis-server on the path: apt-get install redis-server, or brew install redis"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    folder = tmp_path / "redis"
    folder.mkdir()
    server = RedisServer(binary, folder)
    server.start()
    yield server
    server.kill()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
