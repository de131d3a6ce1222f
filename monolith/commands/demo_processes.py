"""The two processes of the demo as a user would start them: ``monolith train`` and ``monolith serve``."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monolith.errors import MonolithError, UnavailableError
from monolith.training.status import Status, read_status

POLL_S = 0.1
STOP_S = 60.0


class Child:
    """One ``monolith`` command running beside this one, its output in ``log``."""

    def __init__(self, arguments: Sequence[str], log: Path) -> None:
        self.command = ["monolith", *arguments]
        self.log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *self.command], stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
            )

    def check(self) -> None:
        """Raise `MonolithError` with the end of its output if it has ended."""
        code = self.process.poll()
        if code is not None:
            raise MonolithError(f"`{' '.join(self.command)}` ended with {code}; the end of {self.log}:\n{self._tail()}")

    def stop(self) -> None:
        """SIGTERM; returns when it has ended well. Raises `MonolithError` if it does not, or not in time."""
        self.check()
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(STOP_S)
        except subprocess.TimeoutExpired as error:
            raise MonolithError(f"`{' '.join(self.command)}` did not stop within {STOP_S:g} s of SIGTERM") from error
        if code not in (0, -signal.SIGTERM):
            raise MonolithError(f"`{' '.join(self.command)}` stopped with {code}; see {self.log}:\n{self._tail()}")

    def kill(self) -> None:
        """End it now, if it still runs."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def _tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])


class Daemon(Child):
    """``monolith train``, watched through its status file."""

    def __init__(self, job: Path, sets: Sequence[str], state: Path, log: Path) -> None:
        super().__init__(["train", str(job), "--quiet", *(word for option in sets for word in ("--set", option))], log)
        self._status_path = state / "status.json"

    def status(self) -> Status | None:
        """What it last said; None before it said anything. Raises `MonolithError` if it has ended."""
        self.check()
        return read_status(self._status_path)

    def wait_for(self, condition: Callable[[Status], bool], show: Callable[[Status], None], timeout_s: float) -> Status:
        """The first status that meets ``condition``, each new one shown meanwhile."""
        deadline, seen_ms = time.monotonic() + timeout_s, 0
        while time.monotonic() < deadline:
            status = self.status()
            if status is not None and status.updated_ms != seen_ms:
                seen_ms = status.updated_ms
                show(status)
                if condition(status):
                    return status
            time.sleep(POLL_S)
        raise UnavailableError(f"the daemon did not come to where it should within {timeout_s:g} s; see {self.log}")


class Server(Child):
    """``monolith serve`` on a free port."""

    def __init__(self, store: str, model: str, port: int | None, log: Path) -> None:
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        super().__init__(["serve", "--store", store, "--model", model, "--port", str(self.port)], log)

    def get(self, path: str) -> Any:
        """The JSON that ``path`` answers with."""
        with urllib.request.urlopen(self.url + path, timeout=5.0) as answer:
            return json.load(answer)

    def wait_until_ready(self, timeout_s: float) -> float:
        """Seconds until it could answer; raises if it ended, or `UnavailableError` if it cannot in time."""
        start = time.monotonic()
        while time.monotonic() < start + timeout_s:
            self.check()
            try:
                self.get("/ready")
                return time.monotonic() - start
            except (urllib.error.URLError, OSError):
                time.sleep(0.02)
        raise UnavailableError(f"the server was not ready within {timeout_s:g} s; see {self.log}")


@dataclass(frozen=True)
class Question:
    """A POST that a person can send with curl."""

    url: str
    body: dict[str, Any]

    def arguments(self) -> list[str]:
        """The curl command."""
        header = "content-type: application/json"
        return ["curl", "-sS", "--fail-with-body", self.url, "-H", header, "-d", json.dumps(self.body)]

    def line(self) -> str:
        """The same as one line for a shell."""
        return f"curl -s {self.url} -H 'content-type: application/json' -d '{json.dumps(self.body)}'"

    def ask(self) -> Any:
        """The JSON answer, by curl where there is one, so that the printed line is what is proven."""
        if shutil.which("curl") is None:
            data, headers = json.dumps(self.body).encode(), {"content-type": "application/json"}
            with urllib.request.urlopen(urllib.request.Request(self.url, data, headers), timeout=10.0) as answer:
                return json.load(answer)
        done = subprocess.run(["bash", "-c", self.line()], capture_output=True, text=True, timeout=30.0, check=False)
        try:
            return json.loads(done.stdout)
        except json.JSONDecodeError as error:
            raise UnavailableError(f"`{self.line()}` gave no JSON: {done.stdout[:200]}{done.stderr[:200]}") from error


def free_port() -> int:
    """A port that nothing listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
