"""The streams of the demo and the benchmarks by name: where each comes from, which job reads it, what is true."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from monolith.datasets import ml100k, ml100k_origin
from monolith.datasets.impressions import Impression
from monolith.datasets.synthetic import SyntheticStream
from monolith.errors import ConfigError

NAMES = ("ml-100k", "synthetic")
_FOLDER = Path(__file__).resolve().parents[1] / "jobs"
JOBS = {"ml-100k": _FOLDER / "demo.yaml", "synthetic": _FOLDER / "synthetic.yaml"}
SYNTHETIC_EVENTS = 100_000
LEAST_EVENTS = 500


@dataclass(frozen=True)
class NamedStream:
    """``count`` impressions that can be started again as often as one likes."""

    name: str
    origin: str  # for people: where it came from, or how it was made
    count: int
    start: Callable[[], Iterator[Impression]]
    generated: bool  # then `probabilities` are known

    def cut_ms(self, share: float) -> int:
        """The event time of the first impression after ``share`` of them."""
        return next(islice(self.start(), int(self.count * share), None)).feature.event_time_ms

    def last(self) -> Impression:
        """The last impression, for a request that a person can send."""
        return next(islice(self.start(), self.count - 1, None))

    def probabilities(self, keys: Sequence[tuple[str, str]]) -> npt.NDArray[np.float32]:
        """The true probabilities (n,) behind generated samples, by running the generator again.

        ``keys`` are request and item id of each sample.
        """
        places = {key: i for i, key in enumerate(keys)}
        truth = np.full(len(keys), np.nan, np.float32)
        for impression in self.start():
            place = places.get((impression.feature.request_id, impression.feature.item_id))
            if place is not None and impression.probability is not None:
                truth[place] = impression.probability
        return truth


def open_stream(name: str, events: int | None = None) -> NamedStream:
    """The stream ``name``, fetched if need be; ``events`` impressions of it (None: all, or `SYNTHETIC_EVENTS`).

    Raises ConfigError for another name or for more than there are, UnavailableError if it cannot be fetched.
    """
    if events is not None and events < LEAST_EVENTS:
        raise ConfigError(f"{events} events are too few to learn from and to judge by; take at least {LEAST_EVENTS}")
    if name == "synthetic":
        count = events or SYNTHETIC_EVENTS
        stream = SyntheticStream()
        return NamedStream(
            name, f"generated, seed {stream.config.seed}", count, lambda: stream.impressions(count), True
        )
    if name != "ml-100k":
        raise ConfigError(f"there is no stream {name!r}; allowed: {', '.join(NAMES)}")
    folder, how = ml100k_origin.get()
    data = ml100k.load(folder)
    count = events or len(data.ratings)
    if count > len(data.ratings):
        raise ConfigError(f"ml-100k has {len(data.ratings)} ratings; {count} were asked for: take fewer, or synthetic")
    return NamedStream(name, f"{folder} ({how})", count, lambda: islice(data.impressions(), count), False)
