"""Values in 16 bits: rounded by chance without bias, by a function of the state, and handed out as they are kept."""

import numpy as np
import pytest
import reference

from monolith.errors import GapError
from monolith.tables import Table, TableFile, expiry, initializers, optimizers
from monolith.tables.delta import Delta

NARROW = pytest.mark.parametrize("storage", ["bfloat16", "float16"])
NOTHING = np.array([], np.int64)


def stored(table: Table, values: np.ndarray) -> np.ndarray:
    """How ``values`` (n, dim) read after they came by a delta, as the rows 0 to n - 1."""
    ids = np.arange(len(values))
    table.apply(Delta(0, 1, ids, np.ascontiguousarray(values, np.float32), NOTHING))
    return table.lookup(ids)


def every_kind_of_value() -> np.ndarray:
    rng = np.random.default_rng(0)
    patterns = rng.integers(0, 2**32, 40_000, dtype=np.uint64).astype(np.uint32).view(np.float32)
    near_one = rng.standard_normal(10_000) * 10.0 ** rng.integers(-10, 6, 10_000)
    edges = [0.0, -0.0, np.inf, -np.inf, np.nan, 65504, 65519, 65520, 65536, 1e30, 2.0**-14, 2.0**-24, 2.0**-25, 1e-45]
    with np.errstate(all="ignore"):
        return np.concatenate([patterns, near_one, edges, -np.array(edges)]).astype(np.float32)


@NARROW
@pytest.mark.parametrize("dim", [1, 2, 7])
def test_rounding_has_the_bits_of_the_numpy_oracle(make_table, storage, dim):
    table = make_table(dim=dim, storage=storage)
    values = every_kind_of_value()
    values = values[: len(values) // dim * dim].reshape(-1, dim)
    chance = reference.rounding_draws(table.config, np.arange(len(values)), 0)
    assert stored(table, values).tobytes() == reference.rounded(values, chance, storage).tobytes()


@NARROW
def test_value_that_fits_is_kept_whatever_the_draw(make_table, storage):
    halves = np.arange(2**16, dtype=np.uint32)
    fits = (halves << 16).view(np.float32) if storage == "bfloat16" else halves.astype(np.uint16).view(np.float16)
    fits = fits.astype(np.float32)[~np.isnan(fits)].reshape(-1, 2)
    assert stored(make_table(dim=2, storage=storage), fits).tobytes() == fits.tobytes()


@NARROW
def test_finite_values_stay_finite(make_table, storage):
    largest = np.full((500, 4), np.finfo(np.float32).max, np.float32)
    assert np.isfinite(stored(make_table(storage=storage), largest)).all()


@NARROW
@pytest.mark.parametrize("size", [1.0, 1e-3, 3e-6], ids=str)
def test_mean_of_a_million_roundings_has_no_bias(make_table, storage, size):
    """3e-6 is below float16's normal numbers. The errors' own spread gives the standard error."""
    values = (np.random.default_rng(1).uniform(0.5, 2, (15_625, 64)) * size).astype(np.float32)
    errors = stored(make_table(dim=64, storage=storage), values).astype(np.float64) - values
    assert errors.any()
    assert abs(errors.mean()) < 4 * errors.std() / errors.size**0.5


@NARROW
def test_steps_far_below_the_spacing_add_up(make_table, storage):
    """At 1 the spacing is 2^-7 or 2^-10: rounded to the nearest, no step of 1e-4 would ever show."""
    table = make_table(storage=storage, optimizer=optimizers.SGD(lr=1.0))
    ids = np.arange(2000)
    stored(table, np.ones((2000, 4)))
    for _ in range(100):
        table.apply_gradients(ids, np.full((2000, 4), 1e-4, np.float32))
    assert abs(table.lookup(ids).mean() - 0.99) < 5e-4


@NARROW
@pytest.mark.parametrize(
    "rule",
    [
        optimizers.SGD(lr=0.1, weight_decay=0.01),
        optimizers.Adam(lr=0.01),
        optimizers.RowWiseAdagrad(lr=0.05, clip_row_norm=1.0),
        optimizers.FTRL(lr=0.1, l1=0.1, schedule=optimizers.Schedule(warmup_steps=5)),
    ],
    ids=lambda rule: type(rule).__name__,
)
def test_steps_have_the_bits_of_the_numpy_oracle_across_a_save(config, tmp_path, storage, rule):
    table = Table(config(dim=17, storage=storage, optimizer=rule, initializer=initializers.TruncatedNormal(std=0.1)))
    ids = np.random.default_rng(0).integers(-(2**63), 2**63 - 1, 40)
    table.observe(ids)
    values, state = reference.initial_values(table.config, ids), reference.row_state(table.config, 40)
    rng = np.random.default_rng(1)
    for t in range(1, 13):
        grads = rng.standard_normal((40, 17)).astype(np.float32)
        table.apply_gradients(ids, grads)
        reference.row_step(table.config, ids, values, state, grads, t)
        if t == 6:
            table.save(tmp_path)
            table = Table.open(tmp_path)
    assert table.lookup(ids).tobytes() == values.tobytes()


@NARROW
def test_bits_do_not_depend_on_the_order_of_rows_in_memory(make_table, state_of, storage):
    tables = [make_table(storage=storage, expiry=expiry.Idle(ttl_s=1.0)) for _ in range(2)]
    ids, rng = np.arange(500), np.random.default_rng(2)
    tables[1].observe(ids[::-1], event_time_ms=5000)
    tables[0].observe(ids, event_time_ms=5000)
    for _ in range(5):
        grads = rng.standard_normal((500, 4)).astype(np.float32)
        tables[0].apply_gradients(ids, grads)
        tables[1].apply_gradients(ids[::-1], np.ascontiguousarray(grads[::-1]))
    happened = [table.stats() for table in tables]
    assert state_of(tables[0]) == state_of(tables[1])
    assert happened[0].rows == 500


@NARROW
def test_replica_of_either_storage_holds_the_same_values(make_table, storage):
    table, ids = make_table(storage=storage), np.arange(300)
    table.observe(ids)
    table.apply_gradients(ids, np.random.default_rng(3).standard_normal((300, 4)).astype(np.float32))
    table.cut()
    for kept in ("float32", storage):
        replica = make_table(storage=kept)
        replica.apply(table.delta(0))
        assert replica.lookup(ids).tobytes() == table.lookup(ids).tobytes()


@NARROW
def test_values_take_half_the_memory_and_half_the_file(make_table, tmp_path, storage):
    wide, narrow = make_table(dim=16), make_table(dim=16, storage=storage)
    for table, folder in ((wide, "wide"), (narrow, "narrow")):
        table.observe(np.arange(1000))
        table.save(tmp_path / folder)
    assert narrow.stats().bytes_values * 2 == wide.stats().bytes_values
    sizes = {folder: (tmp_path / folder / "table.bin").stat().st_size for folder in ("wide", "narrow")}
    assert sizes["wide"] - sizes["narrow"] > 1000 * 16 * 2 - 100
    with TableFile(tmp_path / "narrow") as file:
        bucket = file.bucket(int(reference.bucket(np.array([7]))[0]))
    at = bucket["ids"].tolist().index(7)
    assert bucket["values"].reshape(-1, 16)[at].tobytes() == narrow.lookup(np.array([7])).tobytes()


@NARROW
def test_float32_table_opens_in_16_bits_rounded_once(config, tmp_path, storage):
    wide, ids = Table(config()), np.arange(200)
    wide.observe(ids)
    wide.save(tmp_path)
    narrow = Table.open(tmp_path, config(storage=storage))
    chance = reference.rounding_draws(narrow.config, ids, 0)
    assert narrow.lookup(ids).tobytes() == reference.rounded(wide.lookup(ids), chance, storage).tobytes()


def test_rows_that_were_rounded_when_they_were_opened_reach_replicas_as_an_image(config, tmp_path):
    wide = Table(config(storage="float32"))
    ids = np.arange(100)
    wide.observe(ids, event_time_ms=0)
    held = wide.cut()
    wide.save(tmp_path)
    same, narrow = Table.open(tmp_path), Table.open(tmp_path, config(storage="bfloat16"))
    assert len(same.delta(held).ids) == 0
    with pytest.raises(GapError):
        narrow.delta(held)
    image = narrow.delta(0)
    assert (image.values == narrow.lookup(image.ids)).all()
    assert (image.values != wide.lookup(image.ids)).any()
