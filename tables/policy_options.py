"""From the rules of a TableConfig by which ids come and go to the native ones, and every limit of their fields."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from monolith.config.absent import HashedTail
from monolith.config.admission import Admission, MinCount, Probability
from monolith.config.eviction import LFU, Score, Unlimited
from monolith.config.expiry import Absolute, Expiry, Idle
from monolith.config.table import TableConfig
from monolith.errors import ConfigError
from monolith.tables import _core
from monolith.tables.eviction import checked_scores
from monolith.tables.optimizer_options import Rule

MAX_TAIL_ROWS = 1 << 20  # every delta looks through them
_MAX_SECONDS = float(2**52)  # in ms it still fits a signed 64-bit integer
PROBATION_S = 86_400.0  # of rows in tables that have a threshold and do not say it
_SECONDS = f"0.001 to {_MAX_SECONDS:.0f} seconds"


def policy_names(config: TableConfig) -> list[str]:
    """The feature of each policy but the first, which is the table's own. A row keeps the number of its policy."""
    return config.feature_names() if config.per_feature else []


def keeps_age(config: TableConfig) -> bool:
    """True if rows keep when they were made."""
    expiries = [config.expiry, *(rules.expiry for rules in config.per_feature.values())]
    prunes = config.threshold is not None
    return prunes or isinstance(config.eviction, Score) or any(_max_age_s(expiry) is not None for expiry in expiries)


def keeps_uses(config: TableConfig) -> bool:
    """True if rows keep how often their ids were seen."""
    return isinstance(config.eviction, LFU | Score)


def renumbered(saved: list[str], now: list[str]) -> npt.NDArray[np.uint32]:
    """The number that each policy of a saved table has now; 0, the table's own, for a feature that it has no more."""
    numbers = {name: number for number, name in enumerate(now, 1)}
    return np.array([0, *(numbers.get(name, 0) for name in saved)], np.uint32)


def native_policies(config: TableConfig) -> list[_core.Policy]:
    """The table's own policy, and one for each feature where features have their own."""
    policies = [_policy(config.admission, config.expiry, 0)]
    for number, name in enumerate(policy_names(config), 1):
        rules = config.per_feature.get(name)
        own = rules is not None and rules.admission is not None
        admission = (rules and rules.admission) or config.admission
        policies.append(_policy(admission, (rules and rules.expiry) or config.expiry, number if own else 0))
    return policies


def native_eviction(config: TableConfig) -> _core.Eviction:
    """What the table does at its limit. Raises ConfigError for a score function that is not there."""
    rule = config.eviction
    if isinstance(rule, Unlimited):
        return _core.Eviction("unlimited", 0, 0, 0, None)
    return _core.Eviction(
        msgspec.to_builtins(rule)["kind"],
        rule.max_rows or 0,
        rule.max_bytes or 0,
        _ms(getattr(rule, "half_life_s", None)),
        checked_scores(config.name, rule.function) if isinstance(rule, Score) else None,
    )


def native_pruning(config: TableConfig) -> _core.Pruning:
    """Which rows go because their values stayed small."""
    return _core.Pruning(config.threshold, _ms(config.probation_s or PROBATION_S))


def native_tail(config: TableConfig) -> _core.Tail:
    """What ids without a row read."""
    rule = config.absent
    return _core.Tail(config.tail_rows, isinstance(rule, HashedTail) and rule.start_from_tail)


def check_limit(config: TableConfig, native: _core.Table) -> None:
    """Raise ConfigError where the limit in bytes has no room for a row."""
    if not isinstance(config.eviction, Unlimited) and native.sizes().row_limit == 0:
        raise ConfigError(
            f"table {config.name!r}: eviction.max_bytes is {config.eviction.max_bytes}, a row and its index entry take "
            f"{native.row_bytes}: allow at least that"
        )


def policy_rules(config: TableConfig) -> Iterator[Rule]:
    """Every limit of the config's admission, expiry and eviction."""
    yield from _admission_rules("admission", config.admission)
    yield from _expiry_rules("expiry", config.expiry)
    for name, rules in config.per_feature.items():
        if rules.admission is not None:
            yield from _admission_rules(f"per_feature.{name}.admission", rules.admission)
        if rules.expiry is not None:
            yield from _expiry_rules(f"per_feature.{name}.expiry", rules.expiry)
    if isinstance(config.absent, HashedTail):
        rows = config.absent.rows
        yield "absent.rows", rows, 1 <= rows <= MAX_TAIL_ROWS, f"1 to {MAX_TAIL_ROWS}"
    for field in ("max_rows", "max_bytes"):
        value = getattr(config.eviction, field, None)
        yield f"eviction.{field}", value, value is None or 1 <= value < 2**63, "1 to 2**63 - 1"
    yield _seconds("eviction.half_life_s", getattr(config.eviction, "half_life_s", None))
    threshold = config.threshold
    yield "threshold", threshold, threshold is None or 0 <= threshold < math.inf, "a finite number of at least 0"
    yield _seconds("probation_s", config.probation_s)


def _admission_rules(path: str, rule: Admission) -> Iterator[Rule]:
    if isinstance(rule, MinCount | Probability):
        yield f"{path}.max_counters", rule.max_counters, 1 <= rule.max_counters < 2**40, "1 to 2**40 - 1"
        yield _seconds(f"{path}.half_life_s", rule.half_life_s)
    if isinstance(rule, MinCount):
        yield f"{path}.count", rule.count, 1 <= rule.count < 2**32, "1 to 2**32 - 1"
    if isinstance(rule, Probability):
        yield f"{path}.p", rule.p, 0 < rule.p <= 1, "above 0, up to 1"


def _expiry_rules(path: str, rule: Expiry) -> Iterator[Rule]:
    if isinstance(rule, Idle | Absolute):
        yield _seconds(f"{path}.ttl_s", rule.ttl_s)
    if isinstance(rule, Idle):
        yield _seconds(f"{path}.max_age_s", rule.max_age_s)


def _seconds(path: str, value: float | None) -> Rule:
    return path, value, value is None or 0.001 <= value <= _MAX_SECONDS, _SECONDS


def _policy(admission: Admission, expiry: Expiry, counters: int) -> _core.Policy:
    idle = expiry.ttl_s if isinstance(expiry, Idle) else None
    native: Any = getattr(_core, type(admission).__name__)(**msgspec.structs.asdict(admission))
    return _core.Policy(native, _ms(idle), _ms(_max_age_s(expiry)), counters)


def _max_age_s(expiry: Expiry | None) -> float | None:
    if isinstance(expiry, Absolute):
        return expiry.ttl_s
    return expiry.max_age_s if isinstance(expiry, Idle) else None


def _ms(seconds: float | None) -> int:
    return 0 if seconds is None else round(seconds * 1000)
