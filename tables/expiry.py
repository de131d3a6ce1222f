"""When a row goes because its id was not seen, in event time.

``Forever``: never. ``Idle(ttl_s)``: when ``last_seen_ms < clock_ms - round(1000 * ttl_s)``. Such a row reads as absent
from that moment on, whether or not a sweep has taken it away; the sweep (or the id's return) makes the tombstone. An
expired id that returns is a new id: first values, first optimizer state, count zero. An event that is itself older than
that gives its id no row.
"""

from monolith.config.table import Expiry, Forever, Idle

__all__ = ["Expiry", "Forever", "Idle"]
