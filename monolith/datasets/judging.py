"""How good scores are, in four ways: over all samples, within users, within lists, and apart from a user's level.

``auc``      over all samples together
``gauc``     within users, weighted by impressions: each score as it was when its sample was shown
``lists``    within lists of samples that were scored at one moment, as a request's candidates are ranked
``ranking``  within users as in ``gauc``, each log-odds less the mean of what the same model, at the same moment, gives
             this user for a fixed set of items

While a model goes on learning, what it thinks of a user as a whole moves with every answer of the user. That moves
scores of different moments against each other, which ``gauc`` takes for ranking; ``lists`` and ``ranking`` do not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import msgspec
import numpy as np

from monolith.datasets.served import Floats, Ints, score
from monolith.tables.batch import NO_GROUP, Batch
from monolith.training.learner import Learner
from monolith.training.ranking import auc, gauc

MEASURES = ("auc", "gauc", "lists", "ranking")
SHARDS = 20  # equal parts of the judged samples, in order: for curves, and for the spread over time
REFERENCES = 16  # items in the fixed set

Value = float | None  # None: there is no such value, as where a part has labels of one kind only


class Score(msgspec.Struct, frozen=True):
    """By measure: over all judged samples, and over each shard."""

    whole: dict[str, Value]
    shards: dict[str, list[Value]]


class Judge(NamedTuple):
    """The judged samples, in order; all arrays (n,)."""

    labels: Floats
    users: Ints  # NO_GROUP: none
    lists: Ints  # NO_GROUP: none

    def score(self, own: Floats, in_lists: Floats, centred: Floats | None) -> Score:
        """From the scores of each sample's own moment, those of its list's, and the log-odds less the user's mean."""
        parts = {
            "auc": (own, None),
            "gauc": (own, self.users),
            "lists": (in_lists, self.lists),
            "ranking": (centred, self.users),
        }
        edges = np.linspace(0, len(self.labels), SHARDS + 1).astype(int)
        whole, shards = {}, {}
        for name, (scores, groups) in parts.items():
            whole[name] = self._value(scores, groups, slice(None))
            shards[name] = [self._value(scores, groups, slice(*edge)) for edge in pairwise(edges)]
        return Score(whole, shards)

    def _value(self, scores: Floats | None, groups: Ints | None, part: slice) -> Value:
        if scores is None:
            return None
        scores, labels = scores[part], self.labels[part]
        if groups is None:
            return _number(auc(scores, labels))
        known = groups[part] != NO_GROUP
        return _number(gauc(groups[part][known], scores[known], labels[known])[0])


def shard_areas(scores: Floats, labels: Floats, shards: int) -> tuple[Value, list[Value]]:
    """AUC of scores (n,) over all n, and over each of ``shards`` equal parts."""
    edges = np.linspace(0, len(labels), shards + 1).astype(int)
    return _number(auc(scores, labels)), [_number(auc(scores[a:b], labels[a:b])) for a, b in pairwise(edges)]


def _number(value: float) -> Value:
    return None if np.isnan(value) else value


class References:
    """A fixed set of items, as which any sample can be shown; ``items`` are the features that are the item's."""

    def __init__(self, samples: Batch, items: Sequence[str], seed: int = 0) -> None:
        chosen = np.sort(np.random.default_rng(seed).integers(0, len(samples), REFERENCES))
        self._samples, self._items = samples.take(chosen), frozenset(items)

    def centred(self, learner: Learner, samples: Batch, scores: Floats) -> Floats:
        """Log-odds (n,) less the mean of those that this learner gives the same users for the references."""
        count = len(self._samples)
        own = samples.take(np.repeat(np.arange(len(samples)), count))
        others = self._samples.take(np.tile(np.arange(count), len(samples)))
        shown = replace(
            own,
            bags={name: (others if name in self._items else own).bags[name] for name in own.bags},
            dense={name: (others if name in self._items else own).dense[name] for name in own.dense},
        )
        level = log_odds(score(learner, shown)).reshape(-1, count).mean(1)
        apart: Floats = (log_odds(scores) - level).astype(np.float32)
        return apart


def log_odds(probabilities: Floats) -> Floats:
    """(n,) of probabilities (n,), which are kept a ten-millionth from 0 and 1."""
    inner = np.clip(probabilities.astype(np.float64), 1e-7, 1 - 1e-7)
    odds: Floats = np.log(inner / (1 - inner)).astype(np.float32)
    return odds
