"""Several servers of one model: which is asked next, and which rest after a failure.

Servers take turns. One that could not be reached, or said that it cannot answer, rests for a while that doubles with
every failure in a row; others are asked meanwhile, and a resting one only where all rest. Any thread may call it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count

FIRST_PAUSE_S = 0.05
MAX_PAUSE_S = 2.0
FIRST_REST_S = 0.5
MAX_REST_S = 30.0


@dataclass(slots=True)
class _Health:
    failures: int = 0  # in a row
    rests_until: float = 0.0  # by the monotonic clock


@dataclass(frozen=True, slots=True)
class Try:
    """One try of a question."""

    server: int  # its place among the servers
    pause_s: float  # to wait before it


class Servers:
    """The health of ``servers`` of them."""

    def __init__(self, servers: int) -> None:
        self._health = [_Health() for _ in range(servers)]
        self._turns = count()

    def tries(self, retries: int) -> Iterator[Try]:
        """``1 + retries`` tries, and one on every server at least; each round asks every server once.

        The rounds after the first begin with a pause, and the order is made anew by what is known by then.
        """
        tries, servers = max(1 + retries, len(self._health)), len(self._health)
        for number in range(0, tries, servers):
            for place, server in enumerate(self._order()[: tries - number]):
                yield Try(server, _pause_s(number // servers) if place == 0 and number else 0.0)

    def answered(self, server: int) -> None:
        """It is well."""
        health = self._health[server]
        if health.failures:
            health.failures, health.rests_until = 0, 0.0

    def failed(self, server: int) -> None:
        """It rests."""
        health = self._health[server]
        rest_s = min(FIRST_REST_S * 2.0**health.failures, MAX_REST_S)
        health.failures = min(health.failures + 1, 60)
        health.rests_until = time.monotonic() + rest_s

    def _order(self) -> Sequence[int]:
        """Those that are well, from the one whose turn it is; then the others, whose rest ends first."""
        servers, now = len(self._health), time.monotonic()
        first = next(self._turns)
        turn = [(first + place) % servers for place in range(servers)]
        resting = [server for server in turn if self._health[server].rests_until > now]
        well = [server for server in turn if server not in resting]
        return well + sorted(resting, key=lambda server: self._health[server].rests_until)


def _pause_s(attempt: int) -> float:
    """Doubling, and spread, so that clients which failed together do not come back together."""
    return random.uniform(0.5, 1.0) * min(FIRST_PAUSE_S * 2.0 ** (attempt - 1), MAX_PAUSE_S)
