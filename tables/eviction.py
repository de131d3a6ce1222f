"""Which rows go when a table is at its limit, ``max_rows`` or ``max_bytes``; ``docs/policies.md`` has the exact rules.

``LRU``: rows whose ids were not seen for the longest time. ``LFU``: rows whose ids were seen the least often since they
got them, counts halving with event time. ``Score(function)``: rows of the lowest score by a function of one's own:

    def by_size_and_age(rows: eviction.Rows) -> np.ndarray:
        return rows.norms - 1e-9 * (rows.clock_ms - rows.last_seen_ms)

    eviction.register("by_size_and_age", by_size_and_age)

A function is named in a config as it was registered, or as ``module:function``, which is imported when a table is made
of the config. A name in a saved file is never imported: see ``check_registered``. A score must be a function of the
rows alone: no clock, no random numbers, no state, or a replay gives another table.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from monolith.config.eviction import LFU, LRU, Eviction, Score, Unlimited
from monolith.errors import ConfigError, InputError

__all__ = ["LFU", "LRU", "Eviction", "Rows", "Score", "ScoreFunction", "Unlimited", "register"]


@dataclass(frozen=True, slots=True)
class Rows:
    """What a score function is told of a sample of n rows; expired rows and those of the running call are not in it."""

    ids: npt.NDArray[np.int64]  # (n,)
    last_seen_ms: npt.NDArray[np.int64]  # (n,) event time
    admitted_ms: npt.NDArray[np.int64]  # (n,) event time of the occurrence that made the row
    uses: npt.NDArray[np.uint32]  # (n,) occurrences since, halved by the half-life up to the clock
    norms: npt.NDArray[np.float64]  # (n,) Euclidean norm of the values
    clock_ms: int


ScoreFunction = Callable[[Rows], npt.NDArray[Any]]  # (n,) numbers, none of them NaN; the lowest go first

_functions: dict[str, ScoreFunction] = {}


def register(name: str, function: ScoreFunction) -> None:
    """Let configs name ``function``; a table keeps the one that had the name when it was made.

    It is called within ``observe`` and ``step``, from their thread, and may only look rows up in the table.
    Raises ConfigError for a name with a colon or none at all, and for one that another function has.
    """
    if not name or ":" in name:
        raise ConfigError(f"the score function's name is {name!r}, it must have at least one character and no colon")
    if _functions.setdefault(name, function) is not function:
        raise ConfigError(f"a score function {name!r} is registered already: give this one another name")


def check_registered(rule: Eviction, where: str) -> None:
    """Raise ConfigError unless this process knows the score function of ``rule``, read from the file ``where``.

    Known is what was registered, and what a config of this process's own had imported. Nothing is imported for a file:
    whoever wrote the file would choose which code runs here.
    """
    if isinstance(rule, Score) and rule.function not in _functions:
        known = ", ".join(sorted(_functions)) or "none"
        raise ConfigError(
            f"{where}: the table was saved with eviction.function = {rule.function!r}, which this process has not "
            f"registered (registered are: {known}), and a name from a file is not imported. Register the function with "
            f"monolith.tables.eviction.register, or give Table.open a config of your own that names it; to read rows "
            f"without the function, use Table.open_to_read"
        )


def score_function(name: str) -> ScoreFunction:
    """The function of that name, registered or imported; it is registered from then on. Raises ConfigError."""
    if name in _functions:
        return _functions[name]
    module, colon, attribute = name.partition(":")
    if not colon:
        known = ", ".join(sorted(_functions)) or "none"
        raise ConfigError(
            f"eviction.function is {name!r}, registered are: {known}. Register it with "
            f"monolith.tables.eviction.register before the table is made, or name it as module:function"
        )
    try:
        function = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"eviction.function is {name!r}, which cannot be imported: {error}") from None
    if not callable(function):
        raise ConfigError(f"eviction.function is {name!r}, which is no function but {type(function).__name__}")
    _functions[name] = function
    return function  # type: ignore[no-any-return]


def checked_scores(table: str, name: str) -> Callable[..., npt.NDArray[np.float64]]:
    """The function as the native table calls it. Raises InputError for scores that do not fit their rows."""
    function = score_function(name)

    def scores(*fields: Any) -> npt.NDArray[np.float64]:
        rows = Rows(*fields)
        given = np.asarray(function(rows))
        if given.shape != rows.ids.shape or given.dtype.kind not in "iuf":
            raise InputError(
                f"table {table!r}: the score function {name!r} gave {given.dtype} of shape {given.shape}, it must give "
                f"a number for each row, shape {rows.ids.shape}"
            )
        given = np.ascontiguousarray(given, np.float64)
        if np.isnan(given).any():
            bad = int(rows.ids[np.flatnonzero(np.isnan(given))[0]])
            raise InputError(f"table {table!r}: the score function {name!r} gave NaN for id {bad}: give a number")
        return given

    return scores
