from __future__ import annotations

import pytest

from monolith.config import parse_job
from monolith.datasets.history import History, reading_history, with_history
from monolith.datasets.impressions import Impression
from monolith.errors import ConfigError
from monolith.events import ActionEvent, FeatureEvent

HISTORY = History("user", "item", 2, 3_000)


def shown(ms: int, user: int, item: int, *, acted: bool) -> Impression:
    action = ActionEvent(f"r{ms}", str(item), "like", ms + 2_000) if acted else None
    return Impression(FeatureEvent(f"r{ms}", str(item), ms, {"user": user, "item": item}), action)


def bags(impressions: list[Impression]) -> list[tuple[list[int], list[int]]]:
    found = with_history(impressions, HISTORY)
    return [(i.feature.features["liked"], i.feature.features["passed"]) for i in found]


def test_only_what_is_known_when_an_item_is_shown_counts():
    stream = [
        shown(0, 1, 10, acted=True),
        shown(1_999, 1, 11, acted=False),  # the like of 10 comes at 2,000
        shown(2_000, 1, 12, acted=False),
        shown(4_998, 1, 13, acted=False),  # 11 is passed over from 4,999 on
        shown(4_999, 1, 14, acted=False),
    ]
    assert bags(stream) == [([], []), ([], []), ([10], []), ([10], []), ([10], [11])]


def test_users_have_histories_of_their_own_and_the_newest_items_stay():
    stream = [shown(10_000 * i, 1 + (i == 2), i, acted=True) for i in range(5)]
    assert [liked for liked, _ in bags(stream)] == [[], [0], [], [0, 1], [1, 3]]


def test_the_job_reads_the_history_as_it_reads_items():
    job = parse_job("""
name: x
input: {features: log://x, actions: log://y}
tables: [{name: user, dim: 3}, {name: item, dim: 3, optimizer: {kind: sgd, lr: 0.5}}]
""", "x.yaml")  # fmt: skip
    reading = reading_history(job, HISTORY)
    assert reading.feature_names() == ["user", "item", "liked", "passed"]
    assert {(t.optimizer.lr, t.pooling) for t in reading.tables[2:]} == {(0.5, "mean")}
    assert all(f.bag for f in reading.features)
    with pytest.raises(ConfigError, match="no table of the feature 'movie' alone"):
        reading_history(job, History("user", "movie", 2, 3_000))
