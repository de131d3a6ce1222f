"""Rows for a log, all of it read again, and programs that do so beside the test."""

from __future__ import annotations

import subprocess
import sys
import textwrap


def rows(count: int, start: int = 0, size: int = 0) -> list[tuple[bytes, bytes, int]]:
    return [(b"key", b"%d" % i + bytes(size), 1000 + i) for i in range(start, start + count)]


def read_all(source) -> list[bytes | None]:
    values = []
    while records := source.poll(100, 0.0):
        values += [record.value for record in records]
    return values


def python(code: str, *args: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, args)], stdout=subprocess.PIPE, text=True
    )
