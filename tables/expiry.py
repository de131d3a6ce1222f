"""When a row goes because of its time, in event time.

``Forever``: never. ``Idle(ttl_s)``: when ``last_seen_ms < clock_ms - round(1000 * ttl_s)``. ``Absolute(ttl_s)``: when
``admitted_ms < clock_ms - round(1000 * ttl_s)``, admitted_ms being the event time of the occurrence that made the row.
``Idle(ttl_s, max_age_s)``: when either is so. Such a row reads as absent from that moment on, whether or not a sweep
has taken it away; the sweep (or the id's return) makes the tombstone. An expired id that returns is a new id: first
values, first optimizer state, count zero. An event that is itself older than that gives its id no row.
"""

from monolith.config.table import Absolute, Expiry, Forever, Idle

__all__ = ["Absolute", "Expiry", "Forever", "Idle"]
