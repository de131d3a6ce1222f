"""What a table's rules of admission, expiry and eviction must satisfy beyond the type of each key.

Each rule yields what it finds wrong, with the way to the key from the table. The job loader and ``monolith.tables``
hold configs to the same rules.
"""

from __future__ import annotations

from collections.abc import Iterator

from monolith.config.absent import TAIL_MARK
from monolith.config.document import nearest
from monolith.config.eviction import Unlimited
from monolith.config.schema import Problem
from monolith.config.table import FeatureRules, TableConfig


def broken_policy_rules(table: TableConfig) -> Iterator[Problem]:
    """Every rule that the table's policies break."""
    yield from _limits(table)
    if TAIL_MARK in table.name:
        yield (
            ("name",),
            f"a table's name has no {TAIL_MARK!r}, which marks the rows that absent ids share; saw {table.name!r}",
        )
    features = table.feature_names()
    if table.per_feature and table.shared_ids and len(features) > 1:
        text = "with shared_ids a row belongs to several features; leave one of the two out"
        yield ("per_feature",), text
    for name, rules in table.per_feature.items():
        if name not in features:
            known = ", ".join(features)
            yield ("per_feature", name), f"unknown feature {name!r}{nearest(name, features)}; the table has: {known}"
        elif rules == FeatureRules():
            yield ("per_feature", name), "neither admission nor expiry is given; give one of them, or leave it out"


def _limits(table: TableConfig) -> Iterator[Problem]:
    eviction = table.eviction
    if isinstance(eviction, Unlimited):
        return
    if (eviction.max_rows is None) == (eviction.max_bytes is None):
        given = "none" if eviction.max_rows is None else "both"
        yield ("eviction",), f"the table's limit is one of max_rows and max_bytes; saw {given}"
