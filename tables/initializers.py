"""The first values of a row: a function of (seed, table name, id, column) alone.

``Uniform(scale)``: ``k * 2^-23 * scale`` for a whole number k drawn from [-2^23, 2^23), so in [-scale, scale).
``TruncatedNormal(std)``: ``std * x``, x normal given that ``|x| < 2``. ``Zeros()``.
``docs/formats.md`` has the arithmetic; ``initial_values`` of ``tests/tables/reference.py`` is the same in NumPy.
"""

from monolith.config.table import Initializer, TruncatedNormal, Uniform, Zeros

__all__ = ["Initializer", "TruncatedNormal", "Uniform", "Zeros"]
