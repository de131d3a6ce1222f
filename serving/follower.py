"""The thread that keeps a replica's memory in step with a store, and what it knows about how well that goes."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from dataclasses import dataclass

import numpy as np

from monolith.errors import CorruptError, GapError, MonolithError
from monolith.forks import in_child
from monolith.serving.inference import Inference
from monolith.serving.memory import ModelMemory
from monolith.serving.store import Store
from monolith.serving.wire import PublishedDelta

log = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0  # how often it is asked when the trainer was last heard of
WAIT_S = 0.5  # how long one wait for deltas takes, and so how soon `stop` is heard
FIRST_BACK_OFF_S = 0.05
MAX_BACK_OFF_S = 2.0
FRESHNESS_SAMPLES = 4096
LOAD_S = 30.0  # how long the first question in a forked child waits for an image

_inherited: list[Loaded | None] = []  # from a parent, never used and never freed: its locks may be held by nobody


@dataclass(frozen=True, slots=True)
class Freshness:
    """Time from a record's ingestion until what it taught could be read here, over the newest samples."""

    p50_ms: float
    p99_ms: float
    samples: int


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model that can be asked: one card and graph, and the memory that belongs to them."""

    inference: Inference
    memory: ModelMemory


class Follower:
    """Loads the image, applies deltas, loads again after a gap; keeps what it has while the store is away."""

    def __init__(self, store: Store) -> None:
        self.loaded: Loaded | None = None  # replaced as a whole
        self.applied = 0  # deltas
        self.images = 0  # loaded, the first one included
        self.trouble: str | None = None  # why the last try failed, None when it did not
        self.alive_ms = 0  # wall time at which the trainer was last heard of, 0: never
        self._store = store
        self._ages_ms: deque[float] = deque(maxlen=FRESHNESS_SAMPLES)
        self._contact = time.monotonic()
        self._next_look = 0.0
        self._back_off_s = 0.0
        self._stopped = False
        self._forked = False  # in a child that has not begun to follow
        self._make_anew()
        in_child(self._begin_anew)

    def _make_anew(self) -> None:
        """All that belongs to a thread."""
        self._reload = True
        self._announced = 0  # the newest sequence that is readable and counted
        self._reviving = threading.Lock()
        self._stopping = threading.Event()
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="replica-follower", daemon=True)

    def start(self) -> None:
        """Begin to follow."""
        self._thread.start()

    def revive(self) -> None:
        """In a forked child, which has no thread of the parent's: begin to follow, and wait until something is loaded.

        Anywhere else, and from the second call on, it does nothing.
        """
        with self._reviving:
            if self._forked:
                self._thread.start()
                self.wait_for(1, LOAD_S)
                self._forked = False

    def _begin_anew(self) -> None:
        """In a forked child: what the parent's threads had in hand is not to be touched, its memory least of all."""
        _inherited.append(self.loaded)
        self.loaded, self.trouble = None, None
        self._make_anew()
        self._forked = not self._stopped

    def stop(self) -> None:
        """End the thread; what was loaded stays readable."""
        self._stopped, self._forked = True, False
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def wait_for(self, sequence: int, timeout_s: float) -> bool:
        """Wait until at least ``sequence`` is readable; False if it is not by then."""
        if self._forked and not self._thread.is_alive():
            self.revive()
        with self._changed:
            return self._changed.wait_for(lambda: self._announced >= sequence, timeout_s)

    def stale_ms(self) -> float:
        """How long the store has not answered; 0 while it does."""
        return 0.0 if self.trouble is None else 1000.0 * (time.monotonic() - self._contact)

    def freshness(self) -> Freshness | None:
        """Quantiles over the newest samples, None before the first."""
        ages = np.array(self._ages_ms.copy())
        if ages.size == 0:
            return None
        p50, p99 = np.quantile(ages, [0.5, 0.99])
        return Freshness(float(p50), float(p99), ages.size)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._step()
                self._went_well()
            except GapError as error:
                log.info("resync: %s", error)
                self._reload = True
            except MonolithError as error:
                self._failed(error)
            except Exception as error:  # a replica serves on, whatever happens to its thread
                log.exception("following failed in a way that nobody thought of")
                self._failed(error)

    def _step(self) -> None:
        self._look()
        loaded = self.loaded
        if loaded is None or self._reload:
            self._load()
            return
        deltas = self._store.deltas(loaded.memory.version, WAIT_S)
        self._reload = True  # until all are in: after an error in the middle the memory is not to be trusted
        for published in deltas:
            self._take(loaded, published)
        self._reload = False

    def _look(self) -> None:
        if time.monotonic() >= self._next_look:
            self.alive_ms = max(self.alive_ms, self._store.look().alive_ms)
            self._next_look = time.monotonic() + LOOK_EVERY_S

    def _load(self) -> None:
        image = self._store.image()
        inference = Inference(image.model.card, image.model.graph, self._store.url)
        self.loaded = Loaded(inference, ModelMemory(image, self._store.url))
        self.images += 1
        self._reload = False
        version = image.model.version
        log.info("loaded image model=%s sequence=%d", image.model.card.model, version.sequence)
        self._announce(version.sequence)

    def _take(self, loaded: Loaded, published: PublishedDelta) -> None:
        held, delta = loaded.memory.version, published.delta
        if delta.sequence <= held.sequence:
            return
        if delta.base_sequence > held.sequence or published.lineage != held.lineage:
            raise GapError(f"{self._store.url}: delta {delta.sequence} does not follow on {held.sequence}")
        if published.generation != held.generation:
            self._check_graph(loaded, published.generation)
        loaded.memory.apply(published)
        now_ms = time.time_ns() / 1e6
        self._ages_ms.extend((now_ms - delta.ingested_ms).tolist())
        self.applied += 1
        self._announce(delta.sequence)

    def _check_graph(self, loaded: Loaded, generation: int) -> None:
        """A trainer that came back may bring another graph; then everything is loaded anew."""
        model = self._store.model()
        if model.version.generation != generation or model.graph != loaded.inference.graph:
            raise GapError(f"{self._store.url}: generation {generation} may have another graph")

    def _announce(self, sequence: int) -> None:
        """Only when its figures are in as well, so that who waited for it finds them."""
        with self._changed:
            self._announced = sequence
            self._changed.notify_all()

    def _went_well(self) -> None:
        if self.trouble is not None:
            log.info("the store answers again store=%s stale_ms=%.0f", self._store.url, self.stale_ms())
        self._contact, self.trouble, self._back_off_s = time.monotonic(), None, 0.0

    def _failed(self, error: Exception) -> None:
        if self.trouble is None:
            log.warning("cannot follow the store, serving what there is: %s", error)
        self.trouble = str(error)
        self._reload |= isinstance(error, CorruptError)  # a damaged log; the image may be sound
        self._back_off_s = min(2 * self._back_off_s or FIRST_BACK_OFF_S, MAX_BACK_OFF_S)
        self._stopping.wait(self._back_off_s)
