"""A unified table: widths by feature, rows that depend on names alone, one step a row, and which ids share rows."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from reference import initial_values, probe_numbers

from monolith.config import parse_job
from monolith.config.kinds import Unified, kind_of
from monolith.errors import ConfigError, InputError
from monolith.tables import TableConfig, optimizers
from monolith.tables.batch import Bag
from monolith.tables.carry import carried, misfit
from monolith.tables.collection import Collection, Output
from monolith.tables.collisions import SeenIds, collisions
from monolith.tables.hashing import salted
from monolith.tables.kinds import new_embedding, open_embedding

IDS = np.array([3, -8, 2**62, 3, 17, 10**12, 5], np.int64)
PROBES = {"a": 3, "c": 12}
FROZEN = {
    "a": [
        [608796, 630320, 51377, 608796, 939953],
        [351865, 993980, 740040, 351865, 113749],
        [946173, 166368, 36261, 946173, 789291],
    ],
    "b": [[994886, 831599, 968707, 994886, 443001]],
}  # numbers of the rows of IDS[:5], by probe


def config(features: str = "abc", *, rows: int = 50, dim: int = 4, **settings: object) -> TableConfig:
    probes = {name: count for name, count in PROBES.items() if name in features}
    given = {"probes": probes, "optimizer": optimizers.SGD(lr=1.0), "seed": 5} | settings
    return TableConfig(name="all", dim=dim, kind="unified", rows=rows, features=list(features), **given)


def definition(feature: str, ids: np.ndarray, rows: int = 50, dim: int = 4) -> np.ndarray:
    """The vectors of a feature's ids before the first step, by the formula of docs/embeddings.md."""
    plain = TableConfig(name="all", dim=dim, seed=5)
    keys = salted(feature, ids)
    columns = [initial_values(plain, probe_numbers(keys, j, rows)) for j in range(PROBES.get(feature, 1))]
    return np.concatenate(columns, axis=1)


def outputs_of(features: str) -> list[Output]:
    return [Output(name, name, "all", salted=True) for name in features]


def bag(rng: np.random.Generator, *, weighted: bool = False) -> Bag:
    lengths = rng.integers(0, 4, 30).astype(np.int32)
    ids = rng.integers(0, 90, int(lengths.sum()))
    return Bag(ids, lengths, rng.normal(size=len(ids)).astype(np.float32) if weighted else None)


def test_probes_lie_side_by_side_in_the_order_of_their_numbers():
    table = new_embedding(config())
    assert {name: table.width(name) for name in "abc"} == {"a": 12, "b": 4, "c": 48}
    for name in "abc":
        np.testing.assert_array_equal(table.lookup_of(name, salted(name, IDS)), definition(name, IDS))
    assert len(table) == 50


def test_rows_of_ids_are_frozen():
    table = new_embedding(config("ab", rows=1_000_000))
    found = {name: [keys.tolist() for keys in table.keys(name, salted(name, IDS[:5]))] for name in "ab"}
    assert found == FROZEN


@pytest.mark.parametrize("features", ["abc", "cab", "abcxyz", "ac"])
def test_other_features_and_their_order_leave_a_features_vectors_as_they_are(features):
    table = new_embedding(config(features))
    for name in "ac":
        np.testing.assert_array_equal(table.lookup_of(name, salted(name, IDS)), definition(name, IDS))


@pytest.mark.parametrize("pooling", ["sum", "mean"])
@pytest.mark.parametrize("weighted", [False, True])
def test_bags_are_pooled_probe_by_probe(pooling, weighted):
    collection = Collection({"all": new_embedding(config(pooling=pooling))}, outputs_of("abc"))
    rng = np.random.default_rng(0)
    bags = [bag(rng, weighted=weighted) for _ in "abc"]
    expected = []
    for name, one in zip("abc", bags, strict=True):
        weights = np.ones(len(one.ids), np.float32) if one.weights is None else one.weights
        vectors = definition(name, one.ids) * weights[:, None]
        parts = np.split(vectors, np.cumsum(one.lengths)[:-1])
        expected.append([p.sum(0) / (max(1, len(p)) if pooling == "mean" else 1) for p in parts])
    assert collection.dims == (12, 4, 48)
    np.testing.assert_allclose(collection.lookup(bags), np.concatenate(expected, axis=1), rtol=0, atol=1e-6)
    np.testing.assert_array_equal(collection.forward(bags, 1).vectors, collection.lookup(bags))


def test_a_row_takes_one_step_on_the_sum_of_what_ids_probes_and_features_give_it():
    """Adagrad tells one step on a sum from several steps."""
    settings = config(rows=7, optimizer=optimizers.Adagrad(lr=0.5))
    table, rng = new_embedding(settings), np.random.default_rng(1)
    before = table.published()["all"].rows()[1].copy()
    collection = Collection({"all": table}, outputs_of("abc"))
    ones = Bag(IDS, np.ones(7, np.int32))
    grads = rng.normal(size=(7, 64)).astype(np.float32)
    collection.forward([ones] * 3, 1).apply_matrix(grads)
    sums = np.zeros((7, 4), np.float32)
    for name, part in zip("abc", np.split(grads, [12, 16], axis=1), strict=True):
        for j, piece in enumerate(np.hsplit(part, part.shape[1] // 4)):
            np.add.at(sums, probe_numbers(salted(name, IDS), j, 7), piece)
    alone = new_embedding(TableConfig(name="all", dim=4, seed=5, optimizer=settings.optimizer))
    alone.begin(np.arange(7)).apply(sums)
    np.testing.assert_array_equal(alone.lookup(np.arange(7)) != before, sums != 0)
    np.testing.assert_allclose(table.published()["all"].rows()[1], alone.lookup(np.arange(7)), rtol=1e-5, atol=1e-6)


def test_a_list_of_gradients_is_cut_by_probe_as_a_matrix_is():
    tables = [new_embedding(config()) for _ in range(2)]
    rng, ones = np.random.default_rng(2), Bag(IDS, np.ones(7, np.int32))
    grads = rng.normal(size=(7, 64)).astype(np.float32)
    steps = [Collection({"all": table}, outputs_of("abc")).forward([ones] * 3, 1) for table in tables]
    steps[0].apply_matrix(grads)
    steps[1].apply_gradients(np.split(grads, [12, 16], axis=1))
    for name in "abc":
        np.testing.assert_array_equal(*(table.lookup_of(name, salted(name, IDS)) for table in tables))


@pytest.mark.parametrize("places", [None, np.array([4, 0, 1])])
def test_one_features_step_alone_gives_the_bits_of_the_collections(places):
    together, alone = new_embedding(config("a")), new_embedding(config("a"))
    taken = IDS if places is None else IDS[places]
    step = Collection({"all": together}, outputs_of("a")).forward([Bag(taken, np.ones(len(taken), np.int32))], 1)
    grads = np.random.default_rng(3).normal(size=(len(taken), 12)).astype(np.float32)
    step.apply_matrix(grads)
    begun = alone.begin(salted("a", IDS), event_time_ms=np.arange(7))
    np.testing.assert_array_equal(begun.values, definition("a", IDS))
    begun.check(grads, places)
    begun.apply(grads, places)
    np.testing.assert_array_equal(*(table.lookup(salted("a", IDS)) for table in (together, alone)))


def test_ids_of_no_feature_in_particular_are_refused_where_features_differ():
    table = new_embedding(config())
    for call in (table.lookup, table.begin):
        with pytest.raises(InputError, match="'all' is unified: a, b, c read other rows of it for one id"):
            call(IDS)
    with pytest.raises(InputError, match="has no feature 'd'; it has: a, b, c"):
        table.lookup_of("d", IDS)


def test_bytes_to_answer_do_not_depend_on_features_or_probes():
    small, large = new_embedding(config("b", rows=3000)), new_embedding(config("abc", rows=3000))
    assert small.num_bytes() == large.num_bytes()
    assert 3000 * (16 + 20 + 8) < small.num_bytes() < 3000 * (16 + 20 + 18)


# --- another config -----------------------------------------------------------------------------------------------


def test_a_saved_table_says_how_many_probes_each_feature_has(tmp_path):
    new_embedding(config()).save(tmp_path)
    plain = msgspec.json.decode((tmp_path / "kind.json").read_bytes())
    assert plain["kind"] == {"kind": "unified", "rows": 50, "probes": {"a": 3, "b": 1, "c": 12}}
    assert kind_of(config("cba")) == Unified(50, {"a": 3, "b": 1, "c": 12})
    open_embedding(tmp_path, config("cba"))
    with pytest.raises(ConfigError, match=r"'probes': \{'a': 3, .* the config says .*'a': 2"):
        open_embedding(tmp_path, config(probes={"a": 2, "c": 12}))


def test_rows_are_carried_over_to_other_features_and_probes_but_not_to_other_rows(tmp_path):
    table, was = new_embedding(config()), config()
    Collection({"all": table}, outputs_of("abc")).forward([Bag(IDS, np.ones(7, np.int32))] * 3, 1).apply_matrix(
        np.ones((7, 64), np.float32)
    )
    table.cut()
    table.save(tmp_path)
    for other in (config("abcd"), config("c"), config(probes={"a": 5, "c": 12})):
        assert misfit(tmp_path, was, other) is None
        found = carried(tmp_path, was, other).table
        np.testing.assert_array_equal(found.lookup_of("c", salted("c", IDS)), table.lookup_of("c", salted("c", IDS)))
    assert "it was kind unified, rows 50, probes (a 3, b 1, c 12), it is" in str(misfit(tmp_path, was, config(rows=51)))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"rows": None}, "rows: a table of kind unified needs the number of rows"),
        ({"probes": {"d": 2}}, "probes.d: no feature of the table; allowed: a, b, c"),
        ({"probes": {"a": 65}}, "probes.a: allowed: 1 to 64; saw 65"),
        ({"shared_ids": True}, "shared_ids: a unified table keeps the ids of its features apart"),
        ({"kind": "hashed"}, "probes: a table of kind hashed has no probes; of kind unified it has"),
    ],
)
def test_a_table_that_cannot_be_is_refused_by_its_key(settings, says):
    with pytest.raises(ConfigError) as error:
        new_embedding(msgspec.structs.replace(config(), **settings))
    assert says in str(error.value)


JOB = """
name: j
input: {samples: memory://s}
tables:
  - {name: all, dim: 4, kind: unified, rows: 10, features: [user, item], probes: {user: 2}}
  - {name: bias, dim: 1, kind: unified, rows: 10, features: [user, item]}
features: [{name: price, type: float}]
"""


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("fm", ["tables[0].kind: the model fm adds the vectors of user, item", "tables[1].kind: the model fm adds"]),
        ("deepfm", ["tables[0].kind: the model deepfm adds", "tables[1].kind: the model deepfm adds the vectors of"]),
        (
            "widedeep",
            ["tables[1].kind: the model widedeep adds the vectors of user, item, and features that are added"],
        ),
        ("dlrm", ["tables[0].dim: the model dlrm takes tables of one dim; saw 4, but 'user@all' has 8"]),
        ("mlp", []),
        ("dcnv2", []),
    ],
)
def test_a_model_that_adds_features_or_needs_one_width_refuses_the_table_that_does_not_fit(kind, says):
    text = JOB + f"model: {{kind: {kind}}}\n"
    if not says:
        parse_job(text, "job.yaml")
        return
    with pytest.raises(ConfigError) as error:
        parse_job(text, "job.yaml")
    for one in says:
        assert one in str(error.value)
    assert ("tables[0].kind" in str(error.value)) == (kind in ("fm", "deepfm"))


# --- which ids share rows -----------------------------------------------------------------------------------------


def seen(**ids: np.ndarray) -> dict[str, SeenIds]:
    found = {name: SeenIds() for name in ids}
    for name, given in ids.items():
        for part in np.array_split(given, 3):
            found[name].add(part)
    return found


def test_collisions_are_those_that_counting_one_by_one_finds():
    settings, rng = config("ab", rows=40), np.random.default_rng(0)
    ids = {"a": rng.integers(0, 12, 100), "b": rng.integers(0, 30, 200)}
    found = collisions(settings, seen(**ids))
    read = {
        name: {
            int(i): {int(probe_numbers(salted(name, np.array([i])), j, 40)[0]) for j in range(PROBES.get(name, 1))}
            for i in np.unique(own)
        }
        for name, own in ids.items()
    }
    for name, other in (("a", "b"), ("b", "a")):
        intra, inter, times = [], [], []
        for one in read[name]:
            rows = [int(probe_numbers(salted(name, np.array([one])), j, 40)[0]) for j in range(PROBES.get(name, 1))]
            intra.append(np.mean([any(row in read[name][o] for o in read[name] if o != one) for row in rows]))
            inter.append(np.mean([any(row in rows_of for rows_of in read[other].values()) for row in rows]))
            times.append(int((ids[name] == one).sum()))
        assert found[name].ids == len(read[name])
        assert found[name].occurrences == len(ids[name])
        assert found[name].rows == len(set().union(*read[name].values()))
        assert found[name].intra == pytest.approx(np.mean(intra))
        assert found[name].inter == pytest.approx(np.mean(inter))
        assert found[name].intra_occurrences == pytest.approx(np.average(intra, weights=times))
        assert found[name].inter_occurrences == pytest.approx(np.average(inter, weights=times))


def test_ids_with_all_rows_in_common_have_one_vector():
    one_probe = collisions(config("b", rows=2), seen(b=np.arange(50)))["b"]
    assert (one_probe.alike, one_probe.intra, one_probe.inter) == (1.0, 1.0, 0.0)
    many = collisions(config("c", rows=1000), seen(c=np.arange(50)))["c"]
    assert (many.probes, many.alike) == (12, 0.0)
    assert many.intra > 0.3


def test_ids_spread_evenly_over_the_rows():
    """Consecutive ids and scattered ones, at every load: chi-squared at 1e-4, different rows within 1 % of theory."""
    rng = np.random.default_rng(0)
    for load in (0.1, 1, 10):
        for ids in (np.arange(int(20_000 * load)), rng.integers(-(2**63), 2**63 - 1, int(20_000 * load))):
            for name, found in collisions(config("ab", rows=20_000), seen(a=ids, b=ids)).items():
                assert found.occupancy_p > 1e-4, (load, name)
                assert found.rows == pytest.approx(found.expected_rows, rel=0.01)


def test_collisions_of_other_kinds_are_counted_by_their_own_rows():
    ids = np.arange(60)
    hashed = TableConfig(name="x", dim=4, kind="hashed", rows=30)
    qr = TableConfig(name="x", dim=4, kind="qr", rows=30, remainders=6)
    assert (
        collisions(hashed, seen(x=ids))["x"].alike == collisions(qr, seen(x=ids))["x"].alike
    )  # one vector of one hash
    assert collisions(qr, seen(x=ids))["x"].rows == 5 + 6
    assert collisions(hashed, seen(x=np.zeros(0, np.int64)))["x"].ids == 0
    with pytest.raises(ConfigError, match="table 'x' is collisionless: its ids share no rows"):
        collisions(TableConfig(name="x", dim=4), seen(x=ids))
