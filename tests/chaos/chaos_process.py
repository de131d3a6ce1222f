"""One program of a chaos run, which may be killed, stopped and started again."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

PATIENCE_S = 120.0  # for a process to come to where it must


class ChaosError(Exception):
    """Something that was promised is not so."""


@dataclass
class Process:
    """One program of the run, which may be started again and again."""

    name: str
    command: list[str]
    folder: Path
    environment: dict[str, str]
    still: Callable[[], AbstractContextManager[None]]  # the moments in which it may be killed (`Disk.still`)
    may_end: bool = False  # 0 is no surprise
    excuse: str = ""  # what it may say to end with 1, in this life
    child: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        """What it said, in all its lives."""
        return self.folder / f"{self.name}.log"

    def start(self) -> None:
        """Start it unless it runs."""
        if self.child is None:
            with self.log.open("ab") as output:
                environment = {**os.environ, **self.environment}
                self.child = subprocess.Popen(
                    self.command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environment
                )
            self.excuse = ""

    def kill(self) -> None:
        """SIGKILL, also of a stopped one; nothing if it does not run."""
        if self.child is not None:
            with self.still():
                self.child.kill()
                self.child.wait()
            self.child = None

    def signal(self, number: int) -> None:
        """A signal, if it runs."""
        if self.child is not None and self.child.poll() is None:
            with self.still():
                self.child.send_signal(number)

    def stop(self) -> None:
        """SIGTERM, and it ends well. Raises `ChaosError` if not."""
        if self.child is None:
            return
        self.child.terminate()
        try:
            code = self.child.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            raise ChaosError(f"{self.name} does not stop on SIGTERM:\n{self.tail()}") from None
        self.child = None
        if code not in (0, -signal.SIGTERM):
            raise ChaosError(f"{self.name} stopped with {code}:\n{self.tail()}")

    def ended(self) -> int | None:
        """The exit code of one that ended by itself, which may then be started again."""
        if self.child is None or (code := self.child.poll()) is None:
            return None
        self.child = None
        return code

    def is_excused(self, code: int) -> bool:
        """Whether it may end so."""
        last = self.tail().rpartition("\n")[2]
        return (self.may_end and code == 0) or (code == 1 and bool(self.excuse) and self.excuse in last)

    def tail(self) -> str:
        """Its last words."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-25:]) if self.log.exists() else ""
