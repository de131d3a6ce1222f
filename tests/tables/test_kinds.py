"""Tables of a fixed number of rows do what their definition in NumPy says, and keep to the embeddings' protocol."""

from __future__ import annotations

import json

import msgspec
import numpy as np
import pytest
from reference import initial_values, probe_numbers, tail_numbers

from monolith.config import parse_job
from monolith.config.kinds import Hashed, QuotientRemainder, kind_of
from monolith.errors import ConfigError, CorruptError, InputError, NonFiniteError, VersionError
from monolith.tables import Table, TableConfig, admission, eviction, expiry, optimizers
from monolith.tables.batch import Bag
from monolith.tables.collection import Collection, Output
from monolith.tables.hashing import salted
from monolith.tables.kinds import new_embedding, open_embedding, open_to_read
from monolith.tables.vectors import published_dims, readers_of

IDS = np.array([3, -8, 2**62, 3, 17, 10**12, 5], np.int64)
HASHED = {"kind": "hashed", "rows": 50}
QR = {"kind": "qr", "rows": 50, "remainders": 6}
UNIFIED = {"kind": "unified", "rows": 50}  # see test_unified.py for several rows a vector
KINDS = [HASHED, *({**QR, "combine": how} for how in ("product", "sum", "concat")), UNIFIED]
NAMES = ["hashed", "product", "sum", "concat", "unified"]

each_kind = pytest.mark.parametrize("kind", KINDS, ids=NAMES)


def config(name: str = "item", dim: int = 4, **settings: object) -> TableConfig:
    return TableConfig(name=name, dim=dim, **({"optimizer": optimizers.SGD(lr=1.0), "seed": 5} | settings))


def definition(settings: TableConfig, ids: np.ndarray) -> np.ndarray:
    """The vectors of ids before the first step, by the formulas of docs/embeddings.md."""
    numbers = tail_numbers(ids, settings.rows)
    if settings.kind == "unified":
        return initial_values(config(settings.name, settings.dim), probe_numbers(ids, 0, settings.rows))
    if settings.kind == "hashed":
        return initial_values(config(settings.name, settings.dim), numbers)
    width = settings.dim // 2 if settings.combine == "concat" else settings.dim
    q = initial_values(config(f"{settings.name}.quotient", width), numbers // settings.remainders)
    r = initial_values(config(f"{settings.name}.remainder", width), numbers % settings.remainders)
    if settings.combine == "concat":
        return np.concatenate([q, r], axis=1)
    return q + r if settings.combine == "sum" else q * (1 + r)


@each_kind
def test_first_vectors_are_those_of_the_definition(kind):
    settings = config(**kind)
    np.testing.assert_array_equal(new_embedding(settings).lookup(IDS), definition(settings, IDS))


@each_kind
def test_all_rows_are_there_from_the_start_and_none_comes_or_goes(kind):
    table = new_embedding(config(**kind))
    rows = {"qr": 9 + 6}.get(kind["kind"], 50)
    assert len(table) == rows == sum(len(part.rows()[0]) for part in table.published().values())
    table.begin(IDS, event_time_ms=1_000).apply(np.ones((7, 4), np.float32))
    table.advance(10**15)
    assert table.sweep(max_rows=1000) == 0
    assert len(table) == table.stats().rows == rows
    assert table.clock_ms == 10**15


def test_an_unnamed_divisor_is_the_root_of_the_rows_and_an_unnamed_combination_the_product():
    for rows, root in ((1, 1), (2, 2), (9, 3), (10, 4), (1_000_000, 1000)):
        assert kind_of(config(kind="qr", rows=rows)) == QuotientRemainder(rows, root, "product")
    assert kind_of(config(**HASHED)) == Hashed(50)
    assert QuotientRemainder(10, 4, "sum").quotients == 3


@pytest.mark.parametrize("kind", [HASHED], ids=["hashed"])
@pytest.mark.parametrize("pooling", ["sum", "mean"])
def test_one_native_call_gives_a_hashed_table_the_bits_of_a_step_alone(kind, pooling):
    """Two features of the table, salted apart, in a collection with a collisionless table."""
    settings = config(features=["a", "b"], pooling=pooling, **kind)
    together, alone = new_embedding(settings), new_embedding(settings)
    outputs = [Output("x", "x", "x"), Output("a", "a", "item", salted=True), Output("b", "b", "item", salted=True)]
    collection = Collection({"x": Table(config("x")), "item": together}, outputs)
    ones = Bag(IDS, np.ones(7, np.int32))
    step = collection.forward([ones, ones, ones], 1_000)
    keys = np.concatenate([salted("a", IDS), salted("b", IDS)])
    begun = alone.begin(keys, event_time_ms=1_000)
    np.testing.assert_array_equal(np.concatenate([step.vectors[:, 4:8], step.vectors[:, 8:]]), begun.values)
    grads = np.random.default_rng(1).normal(size=(7, 12)).astype(np.float32)
    step.apply_matrix(grads)
    begun.apply(np.concatenate([grads[:, 4:8], grads[:, 8:]]))
    np.testing.assert_array_equal(together.lookup(keys), alone.lookup(keys))


@each_kind
def test_an_output_without_gradients_gets_no_step(kind):
    """Momentum moves a row that is stepped by zero; the rows of an unused output stand."""
    settings = config(dim=4, features=["a", "b"], optimizer=optimizers.Momentum(lr=1.0), **kind)
    table = new_embedding(settings)
    outputs = [Output("a", "a", "item", salted=True), Output("b", "b", "item", salted=True)]
    collection, bags = Collection({"item": table}, outputs), [Bag(IDS[:1], np.ones(1, np.int32))] * 2
    for _ in range(2):
        collection.forward(bags).apply_gradients([np.ones((1, 4), np.float32)] * 2)
    before = table.lookup_of("b", salted("b", IDS[:1])).copy()
    only_a = collection.forward(bags)
    only_a.apply_gradients([np.ones((1, 4), np.float32), None])
    requests = [reader_requests(settings, salted(name, IDS[:1])) for name in "ab"]
    if not shares(*requests):
        np.testing.assert_array_equal(table.lookup_of("b", salted("b", IDS[:1])), before)
    with pytest.raises(InputError, match="backward ran a second time"):
        only_a.apply_gradients([None, None])


def reader_requests(settings: TableConfig, ids: np.ndarray):
    readers = readers_of(published_dims([settings]), {settings.name: kind_of(settings)})
    reader = readers[settings.name].of(settings.feature_names()[0])
    return [(name, keys.tolist()) for name, keys in reader.requests(ids)]


def shares(left, right) -> bool:
    return any(a == b for a, b in zip(left, right, strict=True))


@each_kind
def test_a_gradient_that_is_no_number_is_refused_before_any_table_is_changed(kind):
    item, plain = new_embedding(config(**kind)), Table(config("x"))
    collection = Collection({"x": plain, "item": item}, [Output("x", "x", "x"), Output("item", "item", "item")])
    bag = Bag(IDS, np.ones(7, np.int32))
    step = collection.forward([bag, bag])
    before = step.vectors.copy()
    grads = np.ones((7, 8), np.float32)
    grads[2, 5] = np.nan
    with pytest.raises(NonFiniteError, match="item"):
        step.apply_matrix(grads)
    np.testing.assert_array_equal(collection.lookup([bag, bag]), before)


def test_sums_of_gradients_are_held_to_the_limit_by_row_and_not_all_together():
    table = new_embedding(config(**QR))
    largest = np.float32(table.largest_gradient)
    numbers = tail_numbers(np.arange(300), 50)
    one, other = (int(np.flatnonzero(numbers == n)[0]) for n in (0, 49))  # neither quotient nor remainder in common
    grads = np.full((2, 4), 0.8 * largest, np.float32)
    table.begin(np.array([one, other])).check(grads)
    with pytest.raises(NonFiniteError, match="the sum with its repeats"):
        table.begin(np.array([one, one])).check(grads)


@each_kind
def test_a_saved_table_goes_on_to_the_same_bits(kind, tmp_path):
    settings = config(optimizer=optimizers.Adam(), **kind)
    table = new_embedding(settings)
    rng = np.random.default_rng(2)

    def train(one) -> None:
        ids = rng.integers(0, 1000, 64)
        one.begin(ids, event_time_ms=5_000).apply(np.sin(ids[:, None] + np.arange(4)).astype(np.float32))

    train(table)
    table.cut()
    table.save(tmp_path / "a")
    opened = open_embedding(tmp_path / "a", settings)
    rng = np.random.default_rng(3)
    train(table)
    rng = np.random.default_rng(3)
    train(opened)
    table.save(tmp_path / "b")
    opened.save(tmp_path / "c")
    files = [sorted(p.relative_to(tmp_path / n) for p in (tmp_path / n).rglob("*") if p.is_file()) for n in "bc"]
    assert files[0] == files[1]
    assert all((tmp_path / "b" / f).read_bytes() == (tmp_path / "c" / f).read_bytes() for f in files[0])
    seen = open_to_read(tmp_path / "b")
    np.testing.assert_array_equal(seen.lookup(IDS), table.lookup(IDS))
    assert (seen.config.kind, seen.dim, seen.num_bytes()) == (settings.kind, 4, table.num_bytes())


@each_kind
def test_a_delta_holds_the_rows_that_were_written_and_the_image_all(kind):
    table = new_embedding(config(**kind))
    table.cut()
    table.begin(IDS[:1]).apply(np.ones((1, 4), np.float32))
    sequence = table.cut()
    deltas = table.deltas(1)
    assert {d.sequence for d in deltas.values()} == {sequence}
    assert {name: d.ids.tolist() for name, d in deltas.items()} == dict(reader_requests(table.config, IDS[:1]))
    image = table.deltas(0)
    assert sum(len(d.ids) for d in image.values()) == len(table)
    assert {name: d.values.shape[1] for name, d in image.items()} == published_dims([table.config])


@each_kind
def test_published_rows_give_a_replica_the_trainers_vectors(kind):
    table = new_embedding(config(**kind))
    table.begin(IDS).apply(np.ones((7, 4), np.float32))
    published = table.published()
    reader = readers_of(published_dims([table.config]), {"item": kind_of(table.config)})["item"].of("item")
    rows = [published[name].rows()[1][keys] for name, keys in reader.requests(IDS)]
    np.testing.assert_array_equal(reader.vectors(rows), table.lookup(IDS))


def test_bytes_to_answer_count_rows_what_stands_beside_them_and_the_index():
    table = new_embedding(config(dim=16, kind="hashed", rows=100_000))
    stats = table.stats()
    assert table.num_bytes() == stats.bytes_values + stats.bytes_stamps + stats.bytes_index
    assert stats.bytes_values == 100_000 * 64
    assert 100_000 * (64 + 20 + 8) < table.num_bytes() < 100_000 * (64 + 20 + 7 + 12)
    small = new_embedding(config(dim=16, kind="qr", rows=100_000))
    assert len(small) == 317 + 316
    assert small.num_bytes() < table.num_bytes() / 100


def test_a_product_with_ftrl_learns_though_its_rows_start_at_zero():
    table = new_embedding(config(optimizer=optimizers.FTRL(lr=0.5), kind="qr", rows=100))
    assert not table.lookup(IDS).any()
    table.begin(IDS[:1]).apply(np.ones((1, 4), np.float32))
    assert table.lookup(IDS[:1]).all()


# --- what cannot be -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"kind": "hashed"}, "rows: a table of kind hashed needs the number of rows"),
        ({"kind": "hashed", "rows": 2**32}, "rows: allowed: 1 to 4294967295"),
        ({"rows": 5}, "rows: a table of kind collisionless has no rows; of kind hashed, qr, unified and cafe it has"),
        ({**HASHED, "combine": "sum"}, "combine: a table of kind hashed has no combine; of kind qr it has"),
        ({**QR, "remainders": 51}, "remainders: allowed: 1 to rows, which is 50; saw 51"),
        ({**QR, "combine": "concat", "dim": 3}, "dim: combine: concat makes a vector of two halves"),
        ({**HASHED, "admission": admission.MinCount(2)}, "admission: a table of kind hashed has all its rows"),
        ({**QR, "expiry": expiry.Idle()}, "expiry: a table of kind qr has all its rows"),
        ({**HASHED, "eviction": eviction.LRU(max_rows=3)}, "eviction: a table of kind hashed has all its rows"),
    ],
)
def test_a_table_that_cannot_be_is_refused_by_its_key(settings, says):
    with pytest.raises(ConfigError) as error:
        new_embedding(config(**settings))
    assert says in str(error.value)


def test_a_job_file_is_refused_by_line_and_key():
    text = """
name: j
input: {samples: memory://s}
tables:
  - {name: item, dim: 4, kind: hashed, rows: 10, expiry: {kind: idle}, absent: {kind: hashed_tail, rows: 2}}
  - {name: user, dim: 4, kind: qr, remainders: 3}
  - {name: shop, dim: 4, kind: hash}
"""
    with pytest.raises(ConfigError, match=r"job.yaml:7: tables\[2\].kind: saw the text 'hash' \(did you mean 'hashed'"):
        parse_job(text, "job.yaml")
    with pytest.raises(ConfigError) as error:
        parse_job(text.replace("kind: hash}", "kind: collisionless}"), "job.yaml")
    for says in ("tables[0].expiry: a table", "tables[0].absent: a table", "tables[1].rows: a table of kind qr needs"):
        assert says in str(error.value)


def test_more_rows_than_memory_is_a_config_error(monkeypatch):
    def full(*_, **__):
        raise MemoryError

    monkeypatch.setattr(Table, "observe", full)
    with pytest.raises(ConfigError, match=r"table 'item': 50 rows of [0-9]+ bytes have no room in memory"):
        new_embedding(config(**HASHED))


def test_a_collisionless_table_is_not_made_of_another_kinds_config():
    with pytest.raises(ConfigError, match="kind is 'hashed', allowed is collisionless; new_embedding"):
        Table(config(**HASHED))


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({}, "saved as .*qr.*, the config says .*collisionless"),
        (HASHED, "the config says .*hashed"),
        ({**QR, "remainders": 7}, "'remainders': 6, .* the config says .*'remainders': 7"),
        ({**QR, "combine": "sum"}, "'combine': 'product'"),
        ({**QR, "dim": 8}, "saved with dim = 4, the config says 8"),
    ],
)
def test_rows_are_not_carried_over_to_another_kind(other, says, tmp_path):
    new_embedding(config(**QR)).save(tmp_path)
    with pytest.raises(ConfigError, match=says):
        open_embedding(tmp_path, config(**other))


def test_collisionless_rows_are_not_carried_over_to_a_fixed_number(tmp_path):
    Table(config()).save(tmp_path)
    with pytest.raises(ConfigError, match=r"saved as .*collisionless.*, the config says .*hashed"):
        open_embedding(tmp_path, config(**HASHED))


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"version": 2}, VersionError, "has version 2, this build reads 1"),
        (
            {"kind": {"kind": "qr", "rows": 99, "remainders": 6, "combine": "sum"}},
            CorruptError,
            "9 rows of 4, .* says 17",
        ),
        ({"kind": {"kind": "cafe"}}, CorruptError, "kind.json cannot be read"),
        ({"dim": 3}, CorruptError, "9 rows of 4, .* says 9 of 3"),
    ],
)
def test_a_kind_file_that_does_not_fit_its_parts_is_found(change, error, says, tmp_path):
    new_embedding(config(**QR)).save(tmp_path)
    path = tmp_path / "kind.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(error, match=says):
        open_to_read(tmp_path)


def test_ids_of_another_type_are_refused():
    collection = Collection({"item": new_embedding(config(**QR))}, [Output("item", "item", "item")])
    with pytest.raises(InputError, match="dtype float64"):
        collection.forward([Bag(np.ones(1), np.ones(1, np.int32))])


def test_the_file_of_a_collisionless_table_says_nothing_of_kinds(tmp_path):
    raw = Table(config()).save(tmp_path).read_bytes()
    assert b'"kind":"collisionless"' not in raw
    assert b'"remainders"' not in raw


def test_kind_file_is_as_documented(tmp_path):
    new_embedding(config(**QR)).save(tmp_path)
    plain = msgspec.json.decode((tmp_path / "kind.json").read_bytes())
    how = {"kind": "qr", "rows": 50, "remainders": 6, "combine": "product"}
    assert plain == {"version": 1, "name": "item", "dim": 4, "kind": how}
    files = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.bin"))
    assert files == ["quotient/table.bin", "remainder/table.bin"]
