"""What a running job says when it learns less than it could: once each, with the setting to look at."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from monolith.card import CardFeature
from monolith.errors import EventError
from monolith.streaming.progress import Progress
from monolith.tables.batch import Batch
from monolith.tables.embedding import Embedding
from monolith.tables.schema import FeatureSchema

log = logging.getLogger(__name__)

LEAST_SAMPLES = 1000  # in which a feature was never seen
LEAST_OCCURRENCES = 1000  # of ids of which none got a row
LEAST_ACTIONS = 100  # of which none made a positive sample

IsAbsent = Callable[[Batch], bool]


class Advisor:
    """Looks at batches, tables and streams. It decides nothing, and nothing of it is kept across a restart."""

    def __init__(self, features: Sequence[CardFeature]) -> None:
        self.said: dict[str, str] = {}  # subject -> sentence
        self._unseen = {feature.name: check for feature in features if (check := _absence(feature)) is not None}
        self._samples = 0

    def look(self, batch: Batch) -> None:
        """Take in a batch that is trained on."""
        if not self._unseen:
            return
        self._unseen = {name: is_absent for name, is_absent in self._unseen.items() if is_absent(batch)}
        self._samples += len(batch)
        if self._samples >= LEAST_SAMPLES:
            for name in self._unseen:
                self._say(
                    f"feature {name}",
                    f"feature {name!r} was missing in each of the first {self._samples:,} samples: is it in the events "
                    f"under this name? Else take it out of `features` and of its tables",
                )
            self._unseen = {}

    def review(self, tables: Mapping[str, Embedding], progress: Progress) -> list[str]:
        """Look at tables and streams; everything that was said so far."""
        for name, table in tables.items():
            self._review_table(name, table)
        self._review_actions(progress)
        return list(self.said.values())

    def _review_table(self, name: str, table: Embedding) -> None:
        stats = table.stats()
        if stats.observed >= LEAST_OCCURRENCES and not stats.admitted and not stats.rows:
            self._say(
                f"table {name}",
                f"table {name!r} gave none of {stats.observed:,} occurrences a row, so all of its vectors are zeros: "
                f"look at its `admission` ({table.config.admission}), and at `ttl_s` of its `expiry` if event times "
                f"are old ({stats.late:,} occurrences were older than that)",
            )

    def _review_actions(self, progress: Progress) -> None:
        joined = progress.joined
        if progress.crossed:
            self._say(
                "crossed",
                f"{progress.crossed:,} actions have their features in a partition of another number, and so make no "
                f"label, though input.co_partitioned is true: key both streams by request id, or set it to false",
            )
        if joined.positives:
            return
        if joined.late >= LEAST_ACTIONS:
            self._say(
                "late",
                f"all of {joined.late:,} positive actions came after their window: raise `join.window_s`, and "
                f"`input.max_out_of_order_s` where a stream's times are not in order",
            )
        elif joined.unmatched_actions >= LEAST_ACTIONS:
            self._say(
                "unmatched",
                f"none of {joined.unmatched_actions:,} actions found its features: are request_id and item_id the same "
                f"in both streams? Actions that come before their features wait `join.early_s`",
            )
        elif joined.ignored_actions >= LEAST_ACTIONS:
            self._say(
                "ignored",
                f"none of {joined.ignored_actions:,} actions is one of `join.positive_actions` (or, where `labels` "
                f"name actions, of these): no action makes a label",
            )

    def _say(self, subject: str, sentence: str) -> None:
        if subject not in self.said:
            self.said[subject] = sentence
            log.warning("%s", sentence)


def _absence(feature: CardFeature) -> IsAbsent | None:
    """Tells whether each sample of a batch has of ``feature`` what a missing value gives; None: there is no such."""
    try:
        absent = FeatureSchema([feature]).columns_of([{}], np.zeros(1, np.int64))
    except EventError:  # a missing value is refused
        return None
    name = feature.name
    if name in absent.dense:
        return lambda batch: bool((batch.dense[name] == absent.dense[name]).all())
    if feature.config.type in ("hour", "weekday"):
        return None
    ids = absent.bags[name].ids

    def has_only_absent(batch: Batch) -> bool:
        bag = batch.bags[name]
        return bool((bag.lengths == len(ids)).all()) and bool((bag.ids.reshape(len(batch), -1) == ids).all())

    return has_only_absent
