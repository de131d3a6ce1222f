"""What a user did lately, as features of what is shown next: the producer's work, done here for streams of benchmarks.

A user's last items with an action become the bag ``liked``, the last ones without become ``passed``. Only what is known
when an item is shown counts: an action from its own event time on, the want of one when the window for it is over.
"""

from __future__ import annotations

import heapq
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from monolith.config import JobConfig
from monolith.config.features import FeatureConfig
from monolith.datasets.impressions import Impression
from monolith.errors import ConfigError

LIKED, PASSED = "liked", "passed"


@dataclass(frozen=True)
class History:
    """Whose history of what: names of features, and how much of it."""

    user: str
    item: str
    length: int  # items of either kind, the newest
    window_ms: int  # after this long without an action an item has been passed over


def with_history(impressions: Iterable[Impression], history: History) -> Iterator[Impression]:
    """The impressions, which must be in order of event time, with the bags `LIKED` and `PASSED`, oldest first.

    An impression of a user of whom nothing is known has empty bags. Memory grows with the number of users.
    """
    waiting: list[tuple[int, int, Any, Any, bool]] = []  # known from, number, user, item, acted
    lately: dict[Any, dict[str, deque[Any]]] = defaultdict(
        lambda: {name: deque(maxlen=history.length) for name in (LIKED, PASSED)}
    )
    for number, impression in enumerate(impressions):
        feature, action = impression.feature, impression.action
        while waiting and waiting[0][0] <= feature.event_time_ms:
            _, _, user, item, acted = heapq.heappop(waiting)
            lately[user][LIKED if acted else PASSED].append(item)
        user, item = feature.features[history.user], feature.features[history.item]
        bags = {name: list(items) for name, items in lately[user].items()}
        yield replace(impression, feature=msgspec.structs.replace(feature, features={**feature.features, **bags}))
        known_ms = feature.event_time_ms + history.window_ms if action is None else action.event_time_ms
        heapq.heappush(waiting, (known_ms, number, user, item, action is not None))


def reading_history(job: JobConfig, history: History) -> JobConfig:
    """The job with a table for each of the bags, like the item's but for the mean of a bag in place of the sum."""
    like = next((table for table in job.tables if table.feature_names() == [history.item]), None)
    if like is None:
        raise ConfigError(f"--history: the job has no table of the feature {history.item!r} alone, to be like")
    more = [msgspec.structs.replace(like, name=name, features=[], pooling="mean") for name in (LIKED, PASSED)]
    bags = [FeatureConfig(name=name, bag=True) for name in (LIKED, PASSED)]
    return msgspec.structs.replace(job, tables=[*job.tables, *more], features=[*job.features, *bags])
