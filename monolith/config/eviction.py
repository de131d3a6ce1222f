"""Which rows go when a table is at its limit; `tables.eviction` has the score functions, docs/policies.md the rules.

``LRU``: rows whose ids were not seen for the longest time. ``LFU``: rows whose ids were seen the least often since they
got them, counts halving with event time. ``Score(function)``: rows of the lowest score by a function of one's own.
"""

from __future__ import annotations

from monolith.config.limits import Count, Positive
from monolith.config.variant import Variant


class Unlimited(Variant, frozen=True, tag="unlimited"):
    """The table grows as it needs to."""


class LRU(Variant, frozen=True, tag="lru"):
    """At the limit, rows whose ids were not seen for the longest time go. Give one of the two limits."""

    max_rows: Count | None = None  # of the table; at the limit rows go
    max_bytes: Count | None = None  # of values, state, stamps and index


class LFU(Variant, frozen=True, tag="lfu"):
    """At the limit, rows whose ids were seen the least often since they got them go; in a tie, the longest unseen."""

    max_rows: Count | None = None
    max_bytes: Count | None = None
    half_life_s: Positive | None = 86_400.0  # a use count halves after this much event time without the id; None: never


class Score(Variant, frozen=True, tag="score"):
    """At the limit, rows of the lowest score by ``function`` go: a registered name, or ``module:function``."""

    function: str  # name of a registered function, or module:function
    max_rows: Count | None = None
    max_bytes: Count | None = None
    half_life_s: Positive | None = 86_400.0  # of the use counts that the function is told


Eviction = Unlimited | LRU | LFU | Score
