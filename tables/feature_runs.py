"""Which feature the ids of one call are of, so that each meets the rules of its own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from monolith.config.table import TableConfig
from monolith.errors import InputError
from monolith.tables.arguments import checked_count
from monolith.tables.policy_options import policy_names

FeatureRuns = str | Sequence[tuple[str, int]] | None
Runs = tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]  # policy of each run, and the position after its last id

_NO_RUNS: Runs = (np.zeros(0, np.uint32), np.zeros(0, np.int64))


class Policies:
    """The numbers of a table's policies by feature; 0 is the table's own."""

    def __init__(self, config: TableConfig) -> None:
        self._table = config.name
        self._numbers = dict.fromkeys(config.feature_names(), 0)
        self._numbers |= {name: number for number, name in enumerate(policy_names(config), 1)}
        self._apart = bool(config.per_feature)

    def runs(self, feature: FeatureRuns, n: int) -> Runs:
        """``feature`` of a call with n ids, as arrays.

        Raises InputError for unknown features, and counts that do not add up to n.
        """
        if feature is None:
            return _NO_RUNS
        parts = [(feature, n)] if isinstance(feature, str) else feature
        numbers = np.array([self.number(name) for name, _ in parts], np.uint32)
        ends = np.cumsum(
            [checked_count(count, 0, n, "a feature's number of ids") for _, count in parts], dtype=np.int64
        )
        named = int(ends[-1]) if len(ends) else 0
        if named != n:
            raise InputError(f"feature names {named} ids in {len(parts)} runs, the call has {n}")
        return (numbers, ends) if self._apart else _NO_RUNS

    def number(self, name: str) -> int:
        """The number of the feature's policy. Raises InputError for a feature that the table does not have."""
        try:
            return self._numbers[name]
        except KeyError:
            known = ", ".join(self._numbers)
            raise InputError(f"table {self._table!r} has no feature {name!r}; it has: {known}") from None
