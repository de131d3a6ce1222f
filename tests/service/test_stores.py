"""The contract of every store, run on LMDB and on a real Redis."""

from __future__ import annotations

import itertools
import threading

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from staged_parts import Follower, served

from monolith.errors import FencedError, GapError, InputError, UnavailableError
from monolith.serving.ledger import Version

RUNS = itertools.count()  # examples share a store, so each is a run of its own


def filled(store, model, until=None):
    """Take over and apply the image of ``until``; the generation."""
    generation = store.take_over(model.card, b"graph").generation
    assert store.apply(model.delta(0, until), generation, model.lineage)
    return generation


def test_an_empty_store_says_so(store):
    assert store.version() == Version()
    with pytest.raises(UnavailableError, match="no model yet"):
        store.image()
    with pytest.raises(UnavailableError, match="no model yet"):
        store.deltas(Version(), 0.0)


def test_an_image_and_deltas_are_read_back_as_they_were_written(store, model):
    generation = filled(store, model, until=1)
    assert store.apply(model.delta(1, 2), generation, model.lineage)
    assert store.apply(model.delta(2, 3), generation, model.lineage)
    image = store.image()
    assert model.rows_of(image.delta.tables["user"]) == model.states[3]
    assert (image.delta.tables["user"].ids[1:] > image.delta.tables["user"].ids[:-1]).all()
    assert (image.model.card, image.model.graph, image.model.dense) == (model.card, b"graph", model.dense(3))
    version = store.version()
    assert (version.sequence, version.generation, version.lineage, version.step, version.watermark_ms) == (
        3,
        generation,
        model.lineage,
        30,
        3000,
    )


def test_rows_that_are_absent_read_as_zeros_and_not_found(store, model):
    filled(store, model)
    ids = np.array([2, 1, -5, 99, 2**62, 2], np.int64)
    values, found = store.read("user", ids)
    assert found.tolist() == [True, False, True, False, True, True]
    expected = [model.states[3].get(int(key), bytes(12)) for key in ids]
    assert [row.tobytes() for row in values] == expected
    assert store.read("user", np.zeros(0, np.int64))[0].shape == (0, 3)


def test_a_reading_has_dense_weights_of_the_same_version(store, model):
    filled(store, model)
    reading = store.read_together({"user": np.array([2], np.int64)}, dense=True)
    assert (reading.version.sequence, reading.dense) == (3, model.dense(3))


def test_an_unknown_table_is_an_input_error_that_lists_the_tables(store, model):
    filled(store, model)
    with pytest.raises(InputError, match=r"no table 'movie'.*'user'"):
        store.read("movie", np.array([1], np.int64))


def test_a_known_sequence_is_dropped_and_changes_nothing(store, model):
    generation = filled(store, model)
    before = store.version()
    assert not store.apply(model.delta(1, 2), generation, model.lineage)
    assert not store.apply(model.delta(0, 3), generation, model.lineage)
    assert store.version() == before


def test_a_delta_that_does_not_follow_is_a_gap_and_changes_nothing(store, model):
    generation = filled(store, model, until=1)
    with pytest.raises(GapError, match="holds sequence 1"):
        store.apply(model.delta(2, 3), generation, model.lineage)
    assert served(store, model) == model.states[1]


def test_a_delta_with_other_tables_or_lineage_is_refused(store, scripted):
    model, wider = scripted(), scripted(dim=5)
    model.write(1)
    wider.write(1)
    generation = store.take_over(model.card).generation
    with pytest.raises(InputError, match="tables"):
        store.apply(wider.delta(0), generation, model.lineage)
    with pytest.raises(InputError, match="lineage"):
        store.apply(model.delta(0), generation, "another")
    assert store.version().sequence == 0


def test_an_older_trainer_is_fenced(connect, model):
    old, new = connect(), connect()
    first = filled(old, model, until=1)
    held = new.take_over(model.card)
    assert (held.generation, held.sequence, held.lineage) == (first + 1, 1, model.lineage)
    with pytest.raises(FencedError, match=f"generation {first + 1}"):
        old.apply(model.delta(1, 2), first, model.lineage)
    assert new.apply(model.delta(1, 3), held.generation, model.lineage)
    assert served(old, model) == model.states[3]


def test_two_trainers_of_the_same_generation_are_told_apart(connect, model):
    """As after a store lost its memory and counts from one again."""
    generation = filled(connect(), model, until=1)
    stranger = connect()
    with pytest.raises(FencedError):
        stranger.apply(model.delta(1, 2), generation, model.lineage)


def test_a_trainer_reclaims_its_generation_but_not_a_newer_ones(connect, model):
    old, new = connect(), connect()
    assert old.take_over(model.card, generation=7).generation == 7
    assert old.take_over(model.card, generation=7).generation == 7
    assert new.take_over(model.card).generation == 8
    for generation in (7, 8):
        with pytest.raises(FencedError, match="generation 8"):
            old.take_over(model.card, generation=generation)


def test_a_generation_that_the_store_never_gave_is_a_gap(store, model):
    generation = filled(store, model, until=1)
    with pytest.raises(GapError, match="lost its memory"):
        store.apply(model.delta(1, 2), generation + 1, model.lineage)


def test_card_and_graph_become_visible_with_the_first_delta(connect, scripted):
    old, new = scripted("old"), scripted("new")
    old.write(1, 2)
    new.write(2, 9)
    first, second = connect(), connect()
    filled(first, old)
    held = second.take_over(new.card, b"new graph")
    assert (held.sequence, held.lineage) == (0, "new")
    assert (first.card(), first.graph()) == (old.card, b"graph")
    assert second.apply(new.delta(0), held.generation, "new")
    assert (first.card(), first.graph()) == (new.card, b"new graph")
    assert served(first, new) == new.states[1]


def test_another_card_of_the_same_run_needs_an_image(store, model):
    import msgspec

    filled(store, model, until=1)
    card = msgspec.structs.replace(model.card, features=[])
    held = store.take_over(card)
    assert held.sequence == 0
    with pytest.raises(GapError):
        store.apply(model.delta(1, 2), held.generation, model.lineage)
    assert store.apply(model.delta(0, 2), held.generation, model.lineage)
    assert store.card() == card


def test_an_image_leaves_nothing_of_what_was_there(store, scripted):
    old, new = scripted("old"), scripted("new")
    old.write(*range(-50, 50))
    new.write(3)
    filled(store, old)
    filled(store, new)
    assert served(store, new) == new.states[1]
    assert [ids.tolist() for ids, _ in store.rows("user")] == [[3]]


def test_an_empty_image_is_an_image(store, scripted):
    model = scripted()
    model.write()
    filled(store, model)
    assert served(store, model) == {}
    assert store.version().sequence == 1


def test_deltas_come_in_order_and_lead_to_the_image(store, model):
    generation = filled(store, model, until=1)
    start = store.version()
    assert store.deltas(start, 0.0) == []
    for until in (2, 3):
        store.apply(model.delta(until - 1, until), generation, model.lineage)
    deltas = [published.delta for published in store.deltas(start, 0.0)]
    assert [(delta.base_sequence, delta.sequence) for delta in deltas] == [(1, 2), (2, 3)]
    assert model.rows_of(deltas[1].tables["user"]) == model.rows_of(model.delta(2, 3).tables["user"])
    assert deltas[1].tables["user"].removed.tolist() == [1]


def test_a_follower_waits_until_a_delta_comes(connect, model):
    writer, reader = connect(), connect()
    generation = filled(writer, model, until=1)
    start, seen = reader.version(), []
    waiting = threading.Thread(target=lambda: seen.extend(reader.deltas(start, 30.0)))
    waiting.start()
    writer.apply(model.delta(1, 2), generation, model.lineage)
    waiting.join(20)
    assert [published.delta.sequence for published in seen] == [2]


def test_a_follower_is_sent_to_the_image_when_a_new_one_came(connect, scripted, model):
    writer, reader = connect(), connect()
    filled(writer, model)
    start = reader.version()
    other = scripted("other")
    other.write(1)
    filled(writer, other)
    with pytest.raises(GapError, match="another image"):
        reader.deltas(start, 0.0)


@pytest.mark.parametrize("options", ["?log_deltas=2", "?log_mb=0.0007"])
def test_the_log_keeps_the_newest_deltas_and_tells_of_the_gap(connect, scripted, options):
    model, store = scripted(), connect(options)
    model.write(0)
    generation = filled(store, model)
    start = store.version()
    for sequence in range(2, 8):
        model.write(sequence)
        store.apply(model.delta(sequence - 1), generation, model.lineage)
    with pytest.raises(GapError, match="no longer reaches back"):
        store.deltas(start, 0.0)
    recent = Version(**{**{f: getattr(store.version(), f) for f in Version.__struct_fields__}, "sequence": 5})
    assert [published.delta.sequence for published in store.deltas(recent, 0.0)] == [6, 7]


def test_a_delta_larger_than_the_log_is_applied_but_not_kept(connect, scripted):
    model, store = scripted(), connect("?log_mb=0.001")
    model.write(0)
    generation = filled(store, model)
    start = store.version()
    model.write(*range(100))
    assert store.apply(model.delta(1), generation, model.lineage)
    assert served(store, model) == model.states[2]
    with pytest.raises(GapError):
        store.deltas(start, 0.0)


def test_a_large_model_goes_in_and_comes_back_whole(store, scripted):
    model = scripted(dim=8)
    ids = np.unique(np.random.default_rng(5).integers(-(2**63), 2**63 - 1, 150_000))
    values = np.random.default_rng(6).random((len(ids), 8), np.float32)
    model.write()
    empty = model.delta(0)
    table = type(empty.tables["user"])(0, 1, ids, values, np.zeros(0, np.int64))
    generation = store.take_over(model.card).generation
    image = type(empty)(0, 1, 1, 1, {"user": table}, b"")
    assert store.apply(image, generation, model.lineage)
    read = store.image().delta.tables["user"]
    assert np.array_equal(read.ids, ids)
    assert np.array_equal(read.values, values)
    chunks = list(store.rows("user"))
    assert len(chunks) > 1
    assert sum(len(chunk) for chunk, _ in chunks) >= len(ids)


def test_images_read_while_deltas_arrive_are_each_of_one_version(connect, scripted):
    model, writer, reader = scripted(), connect(), connect()
    model.write(*range(400))
    generation = filled(writer, model)
    for sequence in range(2, 60):
        model.write(*range(0, 400, 2), 1000 + sequence, remove=(1000 + sequence - 1,))
    with Follower(reader, model):
        for sequence in range(2, 60):
            writer.apply(model.delta(sequence - 1, sequence), generation, model.lineage)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    edits=st.lists(st.tuples(st.sets(st.integers(-4, 4)), st.sets(st.integers(-4, 4))), min_size=1, max_size=6),
    spans=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=12),
)
def test_any_order_of_deltas_ends_in_a_state_of_the_history_or_asks_for_another(store, scripted, edits, spans):
    model = scripted(f"run {next(RUNS)}")
    for written, removed in edits:
        model.write(*written - removed, remove=tuple(removed))
    generation, held = store.take_over(model.card).generation, 0
    for base, sequence in spans:
        if not base < sequence <= model.sequence:
            continue
        delta = model.delta(base, sequence)
        if sequence <= held:
            assert not store.apply(delta, generation, model.lineage)
        elif base > held:
            with pytest.raises(GapError):
                store.apply(delta, generation, model.lineage)
        else:
            assert store.apply(delta, generation, model.lineage)
            held = sequence
        if held:
            assert served(store, model) == model.states[held]
