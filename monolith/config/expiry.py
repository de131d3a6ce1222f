"""When a row goes because of its time, in event time.

``Forever``: never. ``Idle(ttl_s)``: when ``last_seen_ms < clock_ms - round(1000 * ttl_s)``. ``Absolute(ttl_s)``: when
``admitted_ms < clock_ms - round(1000 * ttl_s)``, admitted_ms being the event time of the occurrence that made the row.
``Idle(ttl_s, max_age_s)``: when either is so. Such a row reads as absent from that moment on, whether or not a sweep
has taken it away; the sweep (or the id's return) makes the tombstone. An expired id that returns is a new id: first
values, first optimizer state, count zero. An event that is itself older than that gives its id no row.
"""

from __future__ import annotations

from monolith.config.limits import Positive
from monolith.config.variant import Variant


class Forever(Variant, frozen=True, tag="forever"):
    """Rows never expire."""


class Idle(Variant, frozen=True, tag="idle"):
    """A row whose id was last seen more than ``ttl_s`` seconds of event time before the watermark is gone; with
    ``max_age_s``, so is one that was made longer before it, however often its id is seen.
    """

    ttl_s: Positive = 30 * 86_400.0  # event time; idle: since the id was last seen, absolute: since its row was made
    max_age_s: Positive | None = None  # event time since the row was made, however often its id is seen; None: any


class Absolute(Variant, frozen=True, tag="absolute"):
    """A row that was made more than ``ttl_s`` seconds of event time before the watermark is gone."""

    ttl_s: Positive = 30 * 86_400.0


Expiry = Forever | Idle | Absolute
