"""The first values of a row: a function of (seed, table name, id, column) alone.

``Uniform(scale)``: ``k * 2^-23 * scale`` for a whole number k drawn from [-2^23, 2^23), so in [-scale, scale).
``TruncatedNormal(std)``: ``std * x``, x normal given that ``|x| < 2``. ``Zeros()``.
``docs/formats.md`` has the arithmetic; ``initial_values`` of ``tests/tables/reference.py`` is the same in NumPy.
"""

from __future__ import annotations

from monolith.config.limits import NonNegative, Positive
from monolith.config.variant import Variant


class Uniform(Variant, frozen=True, tag="uniform"):
    """Uniform in [-scale, scale)."""

    scale: NonNegative = 0.05  # half the width of the interval


class Zeros(Variant, frozen=True, tag="zeros"):
    """All zeros."""


class TruncatedNormal(Variant, frozen=True, tag="truncated_normal"):
    """Normal with standard deviation ``std``, cut at two standard deviations."""

    std: Positive = 0.01  # standard deviation before the cut


Initializer = Uniform | Zeros | TruncatedNormal
