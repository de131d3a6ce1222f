"""Saying what is waited for: once at once, then seldom, and once when it is over."""

from __future__ import annotations

import logging
import time

log = logging.getLogger(__name__)

_AGAIN_S = 10.0


class Waiting:
    """Writes to the log file while ``name`` is not there, without filling it."""

    def __init__(self, name: str, why: str) -> None:
        self.name = name
        self._why = why
        self._since: float | None = None
        self._next = 0.0
        self.missing: str | None = None  # why ``name`` cannot be read now; None: it is there

    def say(self, why: str | None = None) -> None:
        """It is not there (still)."""
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        self.missing = why or self._why
        if now >= self._next:
            self._next = now + _AGAIN_S
            log.warning("waiting for %s: %s waited_s=%.0f", self.name, why or self._why, now - self._since)

    def over(self) -> None:
        """It is there."""
        if self._since is not None:
            log.info("found %s waited_s=%.1f", self.name, time.monotonic() - self._since)
        self._since = None
        self.missing = None
        self._next = 0.0
