"""A generated stream of any length, with everything that makes online learning hard and a best AUC that is known.

Users and items live in slots. A slot's popularity follows Zipf's law; who lives in it dies after an exponential life
and is followed by somebody new, with a new id. Each holder has a leaning and a vector that drift (an
Ornstein-Uhlenbeck process in event time); a user belongs to a segment and an item to a category, whose affinities
drift as well and are all that is known of a newcomer. A user acts on an item with probability::

    sigmoid(bias + leaning(user) + leaning(item) + affinity(segment, category) + <vector(user), vector(item)>)

after an exponential delay. That probability decides the label, so no model can have a higher expected AUC than it has.
It travels beside the event in `Impression.probability`, never inside it. The same seed gives the same stream, and
memory does not grow with its length.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count as count_from
from itertools import islice

import msgspec
import numpy as np
import numpy.typing as npt

from monolith.datasets.impressions import Impression
from monolith.events import ActionEvent, FeatureEvent

Floats = npt.NDArray[np.float64]

CHUNK = 512  # impressions between two moves of the drift; also what is generated at once
DAY_S = 86_400.0


class SyntheticConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What the stream is like. Times are in event time."""

    seed: int = 0
    users: int = 2000  # slots: so many live at any time
    items: int = 1000
    segments: int = 12
    categories: int = 20
    zipf: float = 1.05  # popularity of rank r is r ** -zipf, for users and items
    rate_per_s: float = 0.05  # impressions a second of event time: 100,000 take 23 days
    user_life_s: float = 20 * DAY_S  # mean life; the next holder of the slot has a new id
    item_life_s: float = 10 * DAY_S
    drift_s: float = 10 * DAY_S  # after this long, tastes and appeals keep 1/e of what they were
    delay_s: float = 20.0  # mean delay of an action
    factors: int = 4
    bias: float = -0.8
    leaning_std: float = 0.8  # standard deviations of the parts of the log-odds
    affinity_std: float = 1.0
    match_std: float = 0.6
    start_ms: int = 1_700_000_000_000


class SyntheticStream:
    """Iterate `impressions` as far as needed; each call starts the same stream again."""

    def __init__(self, config: SyntheticConfig | None = None) -> None:
        self.config = config or SyntheticConfig()

    def impressions(self, count: int | None = None) -> Iterator[Impression]:
        """The first ``count`` impressions (None: without end) in order of event time; request ids are s0, s1, ..."""
        return islice(self._endless(), count)

    def _endless(self) -> Iterator[Impression]:
        world = _World(self.config)
        for first in count_from(0, CHUNK):
            yield from world.chunk(first)


class _Population:
    """Slots with their present holders: id, group, one scalar and one vector that drift."""

    def __init__(
        self, size: int, groups: int, life_s: float, config: SyntheticConfig, rng: np.random.Generator
    ) -> None:
        self.life_s, self.groups, self.config, self.rng = life_s, groups, config, rng
        weights = np.arange(1, size + 1, dtype=np.float64) ** -config.zipf
        self.popularity = np.cumsum(rng.permutation(weights / weights.sum()))
        self.ids = np.arange(1, size + 1)
        self.group = rng.integers(groups, size=size)
        self.leaning = rng.standard_normal(size)
        self.vector = rng.standard_normal((size, config.factors))

    def draw(self, count: int) -> npt.NDArray[np.int64]:
        """Slots (count,) by popularity."""
        slots = np.searchsorted(self.popularity, self.rng.random(count))
        return np.minimum(slots, len(self.ids) - 1)

    def pass_time(self, seconds: float) -> None:
        """Drift everybody, then let some die and others be born in their place."""
        self.leaning = _drift(self.leaning, seconds, self.config.drift_s, self.rng)
        self.vector = _drift(self.vector, seconds, self.config.drift_s, self.rng)
        dead = np.flatnonzero(self.rng.random(len(self.ids)) < -np.expm1(-seconds / self.life_s))
        self.ids[dead] = self.ids.max() + 1 + np.arange(len(dead))
        self.group[dead] = self.rng.integers(self.groups, size=len(dead))
        self.leaning[dead] = self.rng.standard_normal(len(dead))
        self.vector[dead] = self.rng.standard_normal((len(dead), self.vector.shape[1]))


class _World:
    """All that drifts, and the generator that moves it."""

    def __init__(self, config: SyntheticConfig) -> None:
        self.config, self.rng = config, np.random.default_rng(config.seed)
        self.users = _Population(config.users, config.segments, config.user_life_s, config, self.rng)
        self.items = _Population(config.items, config.categories, config.item_life_s, config, self.rng)
        self.affinity = self.rng.standard_normal((config.segments, config.categories))
        self.now_s = 0.0

    def chunk(self, first: int) -> list[Impression]:
        """The next `CHUNK` impressions, numbered from ``first``; then time passes."""
        times = self.now_s + np.cumsum(self.rng.exponential(1 / self.config.rate_per_s, CHUNK))
        users, items = self.users.draw(CHUNK), self.items.draw(CHUNK)
        chances = self._chances(users, items)
        acted = self.rng.random(CHUNK) < chances
        acted_at = times + self.rng.exponential(self.config.delay_s, CHUNK)
        made = [
            self._impression(first + i, users[i], items[i], times[i], acted_at[i] if acted[i] else None, chances[i])
            for i in range(CHUNK)
        ]
        self._pass_time(float(times[-1]) - self.now_s)
        return made

    def _chances(self, users: npt.NDArray[np.int64], items: npt.NDArray[np.int64]) -> Floats:
        """Probability of an action (n,) for these pairs of slots."""
        config = self.config
        leaning = self.users.leaning[users] + self.items.leaning[items]
        affinity = self.affinity[self.users.group[users], self.items.group[items]]
        match = (self.users.vector[users] * self.items.vector[items]).sum(1) / np.sqrt(config.factors)
        parts = config.leaning_std * leaning + config.affinity_std * affinity + config.match_std * match
        chances: Floats = 1 / (1 + np.exp(-(config.bias + parts)))
        return chances

    def _pass_time(self, seconds: float) -> None:
        self.users.pass_time(seconds)
        self.items.pass_time(seconds)
        self.affinity = _drift(self.affinity, seconds, self.config.drift_s, self.rng)
        self.now_s += seconds

    def _impression(
        self, number: int, user: int, item: int, shown_s: float, acted_s: float | None, chance: float
    ) -> Impression:
        request_id, item_id = f"s{number}", str(self.items.ids[item])
        feature = FeatureEvent(
            request_id,
            item_id,
            self._ms(shown_s),
            {
                "user": int(self.users.ids[user]),
                "item": int(self.items.ids[item]),
                "segment": int(self.users.group[user]),
                "category": int(self.items.group[item]),
            },
        )
        action = None if acted_s is None else ActionEvent(request_id, item_id, "click", self._ms(acted_s))
        return Impression(feature, action, float(chance))

    def _ms(self, seconds: float) -> int:
        return self.config.start_ms + int(seconds * 1000)


def _drift(values: Floats, seconds: float, scale_s: float, rng: np.random.Generator) -> Floats:
    """One Ornstein-Uhlenbeck move: standard normal values stay standard normal and forget at rate 1 / ``scale_s``."""
    keep = np.exp(-seconds / scale_s)
    moved: Floats = values * keep + rng.standard_normal(values.shape) * np.sqrt(1 - keep * keep)
    return moved
