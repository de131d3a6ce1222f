"""The trainer's end: hands deltas to a store, and never lets the store's troubles become the training's.

A publisher knows what the store holds and asks for the delta *since then*. So a store that was away gets one wider
delta when it is back, one that lost its memory gets an image, and one that is ahead (the trainer came back from a
snapshot and repeats itself) gets nothing. Only a newer trainer ends it: ``FencedError``.

What a store holds is believed by digest, not by number (``history``): a store that went another way than this trainer
gets an image, under a new revision of the run's lineage.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import msgspec

from monolith.card import ModelCard
from monolith.errors import CorruptError, CredentialsError, GapError, UnavailableError
from monolith.serving.history import History, difference, is_awaited
from monolith.serving.ledger import Held, new_revision
from monolith.serving.store import Store
from monolith.tables.delta import ModelDelta

log = logging.getLogger(__name__)

MakeDelta = Callable[[int], ModelDelta]
HandOver = Callable[[ModelDelta, int, str], bool]  # as ``Store.apply``

FIRST_BACK_OFF_S = 0.2
MAX_BACK_OFF_S = 5.0
# A try that hung until its time-out is followed by a pause this many times as long: a tenth of the time is lost.
PAUSE_PER_LOST_S = 9.0
DRAIN_POLL_S = 0.1
MOST_VERIFIED_ROWS = 500_000  # a start reads a store of so many rows, which takes some seconds
AWAY = (UnavailableError, CredentialsError)  # what a store that was reached before may say for a while
LOOK_EVERY_S = 1.0  # how often a quiet trainer asks its store whether it still has everything


@dataclass(frozen=True, slots=True)
class Published:
    """What became of one publish. ``deferred``: the store is away, a later delta will hold this one too."""

    outcome: Literal["applied", "known", "deferred"]
    held_sequence: int  # what the store is known to hold


class Publisher:
    """One trainer's hold on one store. For one thread: the trainer's."""

    def __init__(self, store: Store, hand_over: HandOver | None = None) -> None:
        """``hand_over`` is how a delta gets into the store, which ``Store.apply`` does if nothing else is given."""
        self.failures = 0  # tries that found the store away, since the start
        self._store = store
        self._hand_over = hand_over or store.apply
        self._card: ModelCard | None = None
        self._graph = b""
        self._history: History | None = None
        self._held: Held | None = None  # None: the store is not (or no longer) taken over
        self._awaited = False  # the store is ahead: whether it holds ours is seen when its sequence is made again
        self._generation: int | None = None  # of the first take-over; kept for as long as this trainer lives
        self._last: tuple[int, MakeDelta] | None = None
        self._pause_s = 0.0
        self._next_try = 0.0
        self._next_look = 0.0
        self._next_beat = 0.0

    @property
    def held_sequence(self) -> int:
        """The sequence that the store is known to hold, 0 while that is unknown."""
        return self._held.sequence if self._held else 0

    @property
    def generation(self) -> int | None:
        """The trainer's generation, None until the store was reached for the first time."""
        return self._generation

    def start(self, card: ModelCard, graph: bytes = b"", history: History | None = None) -> None:
        """Take the store over. Where it is away this returns too, and the next publish tries again.

        Without a ``history`` the store is believed by number.
        """
        self._card, self._graph, self._history = card, graph, history
        try:
            self._verify(self._take_over())
        except UnavailableError as error:
            self._defer(error, lost_s=0.0)

    def publish(self, sequence: int, make_delta: MakeDelta) -> Published:
        """Bring the store up to ``sequence`` unless it is there already.

        ``make_delta(since)`` must return the delta from ``since`` (0: an image) up to ``sequence``, or raise GapError
        where it no longer knows what was removed since then; it is called only when it is needed. A store that is away
        makes this return ``deferred``, mostly without even trying; so does one that was reached before and now refuses
        its user. Raises FencedError when another trainer took over.
        """
        self._last = (sequence, make_delta)
        if time.monotonic() < self._next_try:
            return Published("deferred", self.held_sequence)
        return self._try_to_publish(sequence, make_delta)

    def tend(self, sequence: int, make_delta: MakeDelta) -> None:
        """In quiet times: look now and then whether the store still has ``sequence``, and bring it back if not.

        A store that restarts empty while nothing is published would else stay empty until the next event. As with
        `publish`, the tables must stand at ``sequence``. Raises FencedError when another trainer took over.
        """
        if self.lacks(sequence):
            self.publish(sequence, make_delta)

    def lacks(self, sequence: int) -> bool:
        """Whether a look at the store, now and then, found that ``sequence`` is not there, or no longer whole.

        False where it is too early to look again, or the store does not answer.
        """
        now = time.monotonic()
        if now < max(self._next_look, self._next_try):
            return False
        self._next_look = now + LOOK_EVERY_S
        if not self._still_held():
            self._held = None
        return self.held_sequence < sequence

    def beat(self) -> None:
        """Now and then let replicas know that the trainer lives, whether or not it has something to publish."""
        now = time.monotonic()
        if self._held is None or now < max(self._next_beat, self._next_try):
            return
        self._next_beat = now + LOOK_EVERY_S
        try:
            self._store.beat()
        except AWAY as error:
            self._defer(error, lost_s=time.monotonic() - now)

    def _still_held(self) -> bool:
        """False if the store lost or exchanged what it held. A store that does not answer is given the benefit."""
        try:
            look = self._store.look()
        except AWAY as error:
            self._defer(error, lost_s=0.0)
            return True
        held, version = self._held, look.version
        if look.fault or held is None or version.sequence != held.sequence or version.generation > held.generation:
            return False
        return not held.sequence or (version.lineage, look.digest) == (held.lineage, held.digest)

    def drain(self, timeout_s: float) -> bool:
        """Wait until the store holds what was published last, trying all the while; False if it does not by then.

        Calls the last ``make_delta`` again, so the tables must not have changed since.
        """
        deadline = time.monotonic() + timeout_s
        while self._last is not None and self._try_to_publish(*self._last).outcome == "deferred":
            if time.monotonic() >= deadline:
                log.error("the store did not take the last delta sequence=%d waited_s=%.0f", self._last[0], timeout_s)
                return False
            time.sleep(DRAIN_POLL_S)
        return True

    def close(self) -> None:
        """Let go of the store. The generation stays taken, so a slower trainer is still refused."""
        self._store.close()

    def _try_to_publish(self, sequence: int, make_delta: MakeDelta) -> Published:
        started = time.monotonic()
        try:
            published = self._publish(sequence, make_delta)
        except (*AWAY, GapError) as error:  # a gap here: the store lost its memory again meanwhile
            if isinstance(error, CredentialsError) and self._generation is None:
                raise
            return self._defer(error, lost_s=time.monotonic() - started)
        if self._pause_s:
            log.info("the store answers again store=%s sequence=%d", self._store.url, published.held_sequence)
            self._pause_s = self._next_try = 0.0
        return published

    def _publish(self, sequence: int, make_delta: MakeDelta) -> Published:
        held = self._held or self._take_over()
        if self._awaited and sequence >= held.sequence:
            held = self._take_over()  # now it is known what the store's sequence is made from
        if sequence <= held.sequence:
            return Published("known", held.sequence)
        try:
            applied = self._apply(_delta_or_image(make_delta, held.sequence))
        except GapError as error:
            log.warning("the store is not where it was, taking it over again: %s", error)
            return self._publish_again(sequence, make_delta)
        return Published("applied" if applied else "known", self.held_sequence)

    def _publish_again(self, sequence: int, make_delta: MakeDelta) -> Published:
        """After the store went back, or lost everything: look what it has, send what it lacks."""
        held = self._take_over()
        applied = sequence > held.sequence and self._apply(_delta_or_image(make_delta, held.sequence))
        return Published("applied" if applied else "known", self.held_sequence)

    def _apply(self, delta: ModelDelta) -> bool:
        if self._held is None or self._card is None:
            raise RuntimeError("Publisher.start was not called")
        generation, lineage = self._held.generation, self._held.lineage
        applied = self._hand_over(delta, generation, lineage)
        self._held = Held(generation, delta.sequence, lineage, delta.digest)
        return applied

    def _take_over(self) -> Held:
        """Learn what the store has that need not be sent again; of another history it is nothing."""
        if self._card is None:
            raise RuntimeError("Publisher.start was not called")
        self._held = None
        held = self._claim(self._card)
        self._awaited = is_awaited(held, self._history)
        if reason := difference(held, self._history, self._store.url):
            held = self._claim_anew(self._card, reason)
        self._held = held
        return held

    def _verify(self, held: Held) -> None:
        """Read what the store holds, if that takes seconds at most: rows that somebody altered are sent again."""
        if not held.sequence or held.rows > MOST_VERIFIED_ROWS or self._card is None:
            return
        try:
            self._store.image()
        except CorruptError as error:
            self._held = self._claim_anew(self._card, str(error))

    def _claim_anew(self, card: ModelCard, reason: str) -> Held:
        """Take the store over under a new revision of the run, which has nothing yet."""
        revised = msgspec.structs.replace(card, lineage=new_revision(card.lineage))
        log.warning("the store gets an image, as revision %s: %s", revised.lineage, reason)
        return self._claim(revised)

    def _claim(self, card: ModelCard) -> Held:
        held = self._store.take_over(card, self._graph, self._generation)
        self._generation = held.generation
        log.info(
            "took over store=%s model=%s lineage=%s generation=%d held_sequence=%d",
            self._store.url,
            card.model,
            held.lineage,
            held.generation,
            held.sequence,
        )
        return held

    def _defer(self, error: Exception, lost_s: float) -> Published:
        if not self._pause_s:
            log.warning("the store is away, training goes on and deltas grow wider: %s", error)
        self.failures += 1
        self._pause_s = max(min(2 * self._pause_s or FIRST_BACK_OFF_S, MAX_BACK_OFF_S), PAUSE_PER_LOST_S * lost_s)
        self._next_try = time.monotonic() + self._pause_s
        return Published("deferred", self.held_sequence)


def _delta_or_image(make_delta: MakeDelta, since: int) -> ModelDelta:
    try:
        return make_delta(since)
    except GapError as error:
        log.warning("sending an image instead of a delta: %s", error)
        return make_delta(0)
