"""A cafe table: a short model in Python says which ids are hot; its rows go on, travel and come back bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
from reference import id_hash, initial_values, tail_numbers

from monolith.errors import ConfigError, CorruptError
from monolith.tables import Table, TableConfig, absent, admission, optimizers
from monolith.tables.batch import Bag
from monolith.tables.carry import carried
from monolith.tables.collection import Collection, Output
from monolith.tables.kinds import new_embedding, open_embedding, open_to_read

ROWS, OWN = 5, 4


def config(**settings: object) -> TableConfig:
    plain = {"dim": 3, "kind": "cafe", "rows": ROWS, "own_rows": OWN, "score_decay": 0.9, "seed": 5}
    return TableConfig(name="item", **(plain | {"optimizer": optimizers.SGD(lr=0.1)} | settings))


def train(table, steps: int, seed: int = 0, ids: int = 12) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        batch = np.minimum(rng.zipf(1.3, 20), ids) + 100
        table.begin(batch, event_time_ms=1_000).apply(rng.normal(size=(20, 3)).astype(np.float32))


class Model:
    """Cells in buckets of four, and rows, one by one."""

    def __init__(self) -> None:
        self.cells: list[list[list[float]]] = [[] for _ in range(-(-2 * OWN // 4))]  # of id and score
        self.own: dict[int, np.ndarray] = {}
        self.shared = initial_values(TableConfig(name="item", dim=3, seed=5), np.arange(ROWS))
        self.steps = 0

    def add(self, one: int, norm: float) -> None:
        hash_ = int(id_hash(np.array([one]))[0])
        bucket = self.cells[(hash_ >> 32) * len(self.cells) >> 32]
        for cell in bucket:
            if cell[0] == one:
                cell[1] += norm
                return
        others = [cell for cell in bucket if cell[0] not in self.own]
        if len(bucket) < 4:
            bucket.append([one, norm])
        elif others:  # the coldest makes room, and leaves its score
            coldest = min(others, key=lambda cell: cell[1])
            coldest[:] = [one, coldest[1] + norm]

    def number(self, one: int) -> int:
        return int(tail_numbers(np.array([one]), ROWS)[0])

    def read(self, one: int) -> np.ndarray:
        return self.own.get(one, self.shared[self.number(one)])

    def step(self, ids: np.ndarray, grads: np.ndarray) -> None:
        sums: dict[tuple[str, int], np.ndarray] = {}
        for one, grad in zip(ids.tolist(), grads, strict=True):
            key = ("own", one) if one in self.own else ("shared", self.number(one))
            sums[key] = sums.get(key, np.zeros(3, np.float32)) + grad
            if self.steps % 4 == 3:
                self.add(one, float(np.linalg.norm(grad)))
        for (where, key), grad in sums.items():
            rows = self.own if where == "own" else self.shared
            rows[key] = rows[key] - np.float32(0.1) * grad
        for cell in (cell for bucket in self.cells for cell in bucket):
            cell[1] *= 0.9
        self.steps += 1
        if self.steps % 32 == 0:
            self.exchange()

    def exchange(self) -> None:
        scores = {int(one): score for bucket in self.cells for one, score in bucket}
        new = sorted((one for one in scores if one not in self.own), key=lambda one: -scores[one])
        held = sorted(self.own, key=lambda one: scores[one])[: OWN // 32 + 16]
        for one in new:
            if len(self.own) == OWN:
                if not held or scores[one] <= 1.1 * scores[held[0]]:
                    break
                del self.own[held.pop(0)]
            self.own[one] = self.shared[self.number(one)].copy()


def test_hot_ids_and_all_rows_are_those_of_a_model_in_python():
    table, model, rng = new_embedding(config()), Model(), np.random.default_rng(0)
    changed = 0
    for step in range(800):
        hot = np.arange(8) + 10 * (step // 200)  # what is hot drifts
        ids = rng.choice(hot, 20, p=2.0 ** -np.arange(1, 9) / sum(2.0 ** -np.arange(1, 9)))
        grads = rng.normal(size=(20, 3)).astype(np.float32)
        before = set(model.own)
        table.begin(ids).apply(grads)
        model.step(ids, grads)
        assert table.own_ids()[0].tolist() == sorted(model.own), step
        changed += len(before - set(model.own))
        np.testing.assert_allclose(table.lookup(hot), [model.read(one) for one in hot.tolist()], rtol=1e-4, atol=1e-4)
    assert changed > 8
    assert len(table) == ROWS + OWN


def test_a_newcomer_starts_from_the_row_that_it_shared_with_a_fresh_optimizer_state():
    settings = config(optimizer=optimizers.Adagrad(lr=0.5))
    table = new_embedding(settings)
    ones = np.ones((1, 3), np.float32)
    for _ in range(31):
        table.begin(np.array([7])).apply(ones)
    shared = table.tail()[tail_numbers(np.array([7]), ROWS)[0]]
    table.begin(np.array([100])).apply(ones * 0)  # the 32nd step
    np.testing.assert_array_equal(table.lookup(np.array([7]))[0], shared)
    assert table.own_ids()[0].tolist() == [7]
    table.begin(np.array([7])).apply(ones)
    plain = Table(TableConfig(name="x", dim=3, optimizer=settings.optimizer))
    before = plain.step(np.array([1]))
    start = before.values.copy()
    before.apply_gradients(ones)
    np.testing.assert_allclose(
        table.lookup(np.array([7]))[0] - shared, (plain.lookup(np.array([1])) - start)[0], atol=1e-6
    )


@pytest.mark.parametrize("weighted", [False, True])
def test_one_native_call_gives_the_bits_of_a_step_alone(weighted):
    together, alone = new_embedding(config()), new_embedding(config())
    outputs = [Output("x", "x", "x"), Output("item", "item", "item")]
    collection = Collection({"x": Table(TableConfig(name="x", dim=2)), "item": together}, outputs)
    rng = np.random.default_rng(1)
    for _ in range(70):
        lengths = np.ones(30, np.int32) if not weighted else rng.integers(0, 3, 30).astype(np.int32)
        ids = np.minimum(rng.zipf(1.3, int(lengths.sum())), 40)
        weights = np.full(len(ids), -1.0, np.float32) if weighted else None
        bag = Bag(ids, lengths, weights)
        grads = rng.normal(size=(30, 5)).astype(np.float32)
        collection.forward([bag, bag], 1_000).apply_matrix(grads)
        spread = np.repeat(grads[:, 2:], lengths, axis=0) * (-1.0 if weighted else 1.0)
        alone.begin(ids, event_time_ms=1_000).apply(np.ascontiguousarray(spread, np.float32))
    assert together.kept() == alone.kept()
    np.testing.assert_array_equal(together.lookup(np.arange(60)), alone.lookup(np.arange(60)))


@pytest.mark.parametrize("optimizer", [optimizers.SGD(), optimizers.Adam()])
def test_a_saved_table_goes_on_to_the_same_bits(optimizer, tmp_path):
    table = new_embedding(config(optimizer=optimizer))
    train(table, 50)
    table.cut()
    table.save(tmp_path / "a")
    opened = open_embedding(tmp_path / "a", config(optimizer=optimizer))
    assert open_to_read(tmp_path / "a").own_ids()[0].tolist() == table.own_ids()[0].tolist()
    for one, folder in ((table, "b"), (opened, "c")):
        train(one, 50, seed=1, ids=60)
        one.cut()
        one.save(tmp_path / folder)
    for name in ("table.bin", "kind.json", "kept.bin"):
        assert (tmp_path / "b" / name).read_bytes() == (tmp_path / "c" / name).read_bytes()
    for since in (0, 1):
        left, right = table.deltas(since)["item"], opened.deltas(since)["item"]
        for field in ("ids", "values", "removed"):
            np.testing.assert_array_equal(getattr(left, field), getattr(right, field))
    taken = carried(tmp_path / "b", config(optimizer=optimizer), config(optimizer=optimizer, score_decay=0.5)).table
    np.testing.assert_array_equal(taken.lookup(np.arange(200)), table.lookup(np.arange(200)))


def test_a_replica_that_takes_deltas_as_a_collisionless_table_does_reads_the_trainers_rows():
    table = new_embedding(config())
    tail = absent.HashedTail(rows=ROWS)
    replica = Table(TableConfig(name="item", dim=3, absent=tail, admission=admission.Never()))
    removed = 0
    for part in range(12):
        train(table, 33, seed=part, ids=4 + 5 * part)
        sequence = table.cut()
        delta = table.deltas(sequence - 1)["item"]
        removed += len(delta.removed)
        replica.apply(delta)
        np.testing.assert_array_equal(replica.lookup(np.arange(200)), table.lookup(np.arange(200)))
    assert removed > 0
    image = Table(replica.config)
    image.apply(table.deltas(0)["item"])
    np.testing.assert_array_equal(image.lookup(np.arange(200)), table.lookup(np.arange(200)))
    rows = {name: rows.rows() for name, rows in table.published().items()}
    assert list(rows) == ["item", "item#tail"]
    np.testing.assert_array_equal(rows["item"][1], table.lookup(rows["item"][0]))


def test_bytes_to_answer_count_the_cells_that_say_who_has_a_row():
    table = new_embedding(config(rows=1000, own_rows=1000))
    (rows,) = table.parts.values()
    assert len(rows) == 2000
    assert table.num_bytes() == rows.num_bytes() + 2 * 1000 * 16


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"own_rows": None}, "own_rows: a table of kind cafe needs the number of ids that may have rows of their own"),
        ({"rows": None}, "rows: a table of kind cafe needs the number of rows"),
        ({"own_rows": 2**31}, "own_rows: allowed: up to 2147483647"),
        ({"kind": "hashed"}, "own_rows: a table of kind hashed has no own_rows; of kind cafe it has"),
        ({"admission": admission.MinCount(2)}, "admission: a table of kind cafe has all its rows"),
    ],
)
def test_a_table_that_cannot_be_is_refused_by_its_key(settings, says):
    with pytest.raises(ConfigError) as error:
        new_embedding(config(**settings))
    assert says in str(error.value)


def test_scores_that_are_missing_or_damaged_are_found(tmp_path):
    table = new_embedding(config())
    train(table, 20)
    table.save(tmp_path)
    path = tmp_path / "kept.bin"
    good = path.read_bytes()
    for bad in (good[:-1], good[:9] + bytes([good[9] ^ 1]) + good[10:], b""):
        path.write_bytes(bad)
        with pytest.raises(CorruptError, match=r"kept\.bin"):
            open_embedding(tmp_path, config())
    path.unlink()
    with pytest.raises(CorruptError, match=r"kept\.bin is missing or damaged"):
        open_to_read(tmp_path)
