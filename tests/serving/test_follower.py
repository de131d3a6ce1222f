"""A follower takes up whatever its store delivers, in any order and over any trouble."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from monolith.errors import CorruptError, GapError, UnavailableError
from monolith.serving.follower import Follower
from monolith.serving.ledger import Look, Version
from monolith.serving.packed import pack_delta
from monolith.serving.store import Image, Model
from monolith.serving.wire import PublishedDelta


class ScriptedStore:
    """Hands a follower an image, then whatever deltas or errors a test wants, then nothing more."""

    url = "scripted"

    def __init__(self, model, deliveries) -> None:
        self._model = model
        self._deliveries = list(deliveries)
        self.finished = threading.Event()
        self.newest = 1  # the version that an image is of
        self.payload = "float32"  # of the deltas

    def image(self) -> Image:
        delta = pack_delta(self._model.delta(0, self.newest), "float32")
        version = Version(generation=1, sequence=self.newest, lineage=self._model.lineage, image="i")
        return Image(Model(version, self._model.card, b"", delta.dense), delta)

    def look(self) -> Look:
        return Look(Version(sequence=self.newest), "")

    def deltas(self, after: Version, timeout_s: float) -> list[PublishedDelta]:
        if not self._deliveries:
            self.finished.set()
            threading.Event().wait(0.001)
            return []
        delivery = self._deliveries.pop(0)
        if isinstance(delivery, Exception):
            raise delivery
        base, sequence = delivery
        self.newest = max(self.newest, sequence)
        packed = pack_delta(self._model.delta(base, sequence), self.payload)
        return [PublishedDelta(1, self._model.lineage, 0, packed)]


def followed(store, model) -> tuple[Follower, dict[int, bytes]]:
    """What a follower holds after all deliveries."""
    follower = Follower(store)
    follower.start()
    assert store.finished.wait(20)
    follower.stop()
    ids = np.array(sorted({key for state in model.states for key in state}), np.int64)
    rows = follower.loaded.memory.gather([("user", ids)], False).rows[0]
    return follower, {int(key): row.tobytes() for key, row in zip(ids, rows, strict=True) if row.any()}


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    edits=st.lists(st.tuples(st.sets(st.integers(0, 5)), st.sets(st.integers(0, 5))), min_size=1, max_size=5),
    spans=st.lists(st.tuples(st.integers(0, 5), st.integers(1, 6)), max_size=10),
)
def test_any_order_of_deltas_ends_in_the_newest_state_or_a_reload_of_it(scripted, edits, spans):
    model = scripted()
    model.write(1)
    for written, removed in edits:
        model.write(*written - removed, remove=tuple(removed))
    spans = [(base, sequence) for base, sequence in spans if base < sequence <= model.sequence]
    store = ScriptedStore(model, spans)
    follower, rows = followed(store, model)
    assert follower.loaded.memory.version.sequence == store.newest
    assert rows == model.states[store.newest]


@pytest.mark.parametrize(
    "error", [GapError("gap"), CorruptError("a byte changed"), UnavailableError("gone"), KeyError()]
)
def test_an_error_on_the_way_never_ends_the_following(model, error):
    store = ScriptedStore(model, [(1, 2), error, (2, 3)])
    follower, rows = followed(store, model)
    assert rows == model.states[3]
    assert follower.images == (2 if isinstance(error, GapError | CorruptError) else 1)
    assert follower.trouble is None


def test_a_delta_of_another_payload_makes_the_follower_load_the_image_anew(model):
    store = ScriptedStore(model, [(1, 2)])
    store.payload = "bfloat16"
    follower, rows = followed(store, model)
    assert rows == model.states[2]
    assert follower.images == 2


def test_trouble_is_told_and_staleness_grows_while_it_lasts(model, wait_until):
    store = ScriptedStore(model, [UnavailableError("gone")] * 4)
    follower = Follower(store)
    follower.start()
    wait_until(lambda: follower.trouble == "gone" and follower.stale_ms() > 0, "the trouble being told")
    assert store.finished.wait(20)
    wait_until(lambda: follower.stale_ms() == 0, "the trouble being over")
    follower.stop()
