"""What happens at a table's limit: who goes, who stays, and what is refused."""

import numpy as np
import pytest
import reference

from monolith.errors import ConfigError, InputError
from monolith.tables import Table, TableFile, admission, eviction, expiry, optimizers


def held(table: Table) -> list[int]:
    return table.rows()[0].tolist()


def hit_rate(table: Table, batches) -> float:
    for t, batch in enumerate(batches):
        table.observe(batch, event_time_ms=t)
    stats = table.stats()
    return 1 - stats.admitted / stats.observed


def test_lru_takes_the_longest_unseen(make_table, ids):
    table = make_table(eviction=eviction.LRU(max_rows=3))
    for t, i in enumerate([1, 2, 3, 1]):
        table.observe(ids(i), event_time_ms=t)
    table.observe(ids(4), event_time_ms=9)
    assert held(table) == [1, 3, 4]
    assert (table.stats().evicted, table.stats().expired, table.stats().row_limit) == (1, 0, 3)


def test_lfu_takes_the_least_often_seen_and_forgets_by_event_time(make_table, ids):
    table = make_table(eviction=eviction.LFU(max_rows=2, half_life_s=1.0))
    table.observe(ids(1, 1, 1, 1), event_time_ms=0)
    table.observe(ids(2, 2, 3), event_time_ms=500)  # three ids of one call, the other goes
    assert held(table) == [2, 3]
    table = make_table(eviction=eviction.LFU(max_rows=2, half_life_s=1.0))
    table.observe(ids(1, 1, 1, 1), event_time_ms=0)
    table.observe(ids(2, 2), event_time_ms=500)
    table.observe(ids(3), event_time_ms=900)
    assert held(table) == [1, 3]
    table.observe(ids(3, 3), event_time_ms=3500)  # 4 >> 3 against 1 >> 2, then 2
    table.observe(ids(4), event_time_ms=3600)
    assert held(table) == [3, 4]


def test_gradient_is_no_further_use(make_table, ids):
    table = make_table(eviction=eviction.LFU(max_rows=2, half_life_s=None))
    table.observe(ids(1, 2, 2), event_time_ms=0)
    for t in range(5):
        table.apply_gradients(ids(1), np.ones((1, 4), np.float32), event_time_ms=t)
    table.observe(ids(3), event_time_ms=9)
    assert held(table) == [2, 3]


def test_rows_of_the_call_stay_and_may_exceed_the_limit(make_table):
    table = make_table(eviction=eviction.LRU(max_rows=10))
    table.observe(np.arange(100), event_time_ms=0)
    assert len(table) == 100
    table.observe(np.arange(95, 105), event_time_ms=1)
    assert held(table) == list(range(95, 105))


@pytest.mark.parametrize("call", ["observe", "step"])
def test_table_is_within_its_limit_after_each_call(make_table, call):
    rng = np.random.default_rng(0)
    table = make_table(eviction=eviction.LFU(max_rows=1000), expiry=expiry.Idle(ttl_s=0.03))
    for t in range(60):
        getattr(table, call)(rng.integers(0, 50_000, 300), event_time_ms=t)
        assert len(table) <= 1000
    stats = table.stats()
    assert stats.rows == stats.admitted - stats.expired - stats.evicted
    assert stats.evicted > 0


def test_expired_rows_go_before_others_and_count_as_expired(make_table, ids):
    table = make_table(eviction=eviction.LFU(max_rows=3), expiry=expiry.Idle(ttl_s=1.0))
    table.observe(ids(1, 1, 1, 1), event_time_ms=0)
    table.observe(ids(2, 3), event_time_ms=900)
    table.observe(ids(4), event_time_ms=1500)
    assert held(table) == [2, 3, 4]
    assert (table.stats().expired_idle, table.stats().evicted, table.stats().swept) == (1, 0, 0)


def test_evicted_rows_make_tombstones_and_their_ids_are_new_when_they_return(make_table, ids):
    settings = {"eviction": eviction.LRU(max_rows=2), "admission": admission.MinCount(2)}
    table, replica = make_table(optimizer=optimizers.Adagrad(), **settings), make_table()
    table.observe(ids(1, 1, 2, 2), event_time_ms=0)
    table.apply_gradients(ids(1), np.ones((1, 4), np.float32))
    replica.apply(table.delta(table.cut() - 1))
    first = make_table().lookup(ids(1))
    table.observe(ids(3, 3, 4, 4), event_time_ms=1)
    delta = table.delta(table.cut() - 1)
    assert (delta.ids.tolist(), delta.removed.tolist()) == ([3, 4], [1, 2])
    replica.apply(delta)
    assert held(replica) == [3, 4]
    table.observe(ids(1), event_time_ms=2)
    assert held(table) == [3, 4]
    table.observe(ids(1), event_time_ms=2)
    fresh = make_table(optimizer=optimizers.Adagrad())
    fresh.observe(ids(1))
    assert table.lookup(ids(1)).tobytes() == fresh.lookup(ids(1)).tobytes() != first.tobytes()


def test_step_is_its_three_calls_with_eviction_too(make_table, state_of):
    rng = np.random.default_rng(1)
    one, other = (make_table(eviction=eviction.LFU(max_rows=700)) for _ in range(2))
    for t in range(30):
        batch, grads = rng.zipf(1.1, 400) % 5000, rng.standard_normal((400, 4)).astype(np.float32)
        step = one.step(batch, event_time_ms=t)
        step.apply_gradients(grads)
        other.observe(batch, event_time_ms=t)
        assert step.values.tobytes() == other.lookup(batch).tobytes()
        other.apply_gradients(batch, grads)
        assert one.delta(one.cut() - 1).removed.tolist() == other.delta(other.cut() - 1).removed.tolist()
    assert one.stats().evicted > 0
    assert state_of(one) == state_of(other)


@pytest.mark.parametrize("rule", [eviction.LRU, eviction.LFU])
def test_open_in_between_leaves_no_trace(make_table, tmp_path, state_of, rule):
    rng = np.random.default_rng(2)
    batches = [rng.integers(0, 20_000, 500) for _ in range(40)]
    straight, winding = (make_table(eviction=rule(max_rows=3000)) for _ in range(2))
    for t, batch in enumerate(batches):
        straight.observe(batch, event_time_ms=t)
        winding.observe(batch, event_time_ms=t)
        if t % 9 == 8:
            winding.save(tmp_path)
            winding = Table.open(tmp_path)
    assert straight.stats().evicted > 3000
    assert state_of(straight) == state_of(winding)


def test_limit_in_bytes_holds_rows_and_index(make_table):
    limit = 4 << 20
    table = make_table(dim=16, eviction=eviction.LRU(max_bytes=limit), optimizer=optimizers.RowWiseAdagrad())
    rng = np.random.default_rng(3)
    for t in range(60):
        table.observe(rng.integers(0, 2**60, 2000), event_time_ms=t)
    stats = table.stats()
    used = (stats.bytes_values + stats.bytes_state + stats.bytes_stamps) * stats.rows / (stats.rows + stats.free_rows)
    assert 0.9 * limit < used + stats.bytes_index <= limit
    assert stats.rows > 0.98 * stats.row_limit


def test_limit_without_room_for_a_row_is_refused(config):
    with pytest.raises(ConfigError, match=r"eviction\.max_bytes is 10, a row and its index entry take \d+"):
        Table(config(eviction=eviction.LRU(max_bytes=10)))


def test_lowered_limit_is_met_by_the_next_call(make_table, config, tmp_path):
    table = make_table(eviction=eviction.LRU(max_rows=5000))
    table.observe(np.arange(5000), event_time_ms=0)
    table.save(tmp_path)
    table = Table.open(tmp_path, config(eviction=eviction.LRU(max_rows=100)))
    assert len(table) == 5000
    table.observe(np.arange(3), event_time_ms=1)
    assert len(table) <= 100
    assert table.lookup(np.arange(3)).any(axis=1).all()


def test_use_counts_that_a_snapshot_does_not_have_begin_at_one(make_table, config, tmp_path, ids):
    table = make_table()
    table.observe(ids(1, 1, 1, 2), event_time_ms=5)
    table.save(tmp_path)
    table = Table.open(tmp_path, config(eviction=eviction.LFU(max_rows=2)))
    table.observe(ids(2), event_time_ms=6)
    table.observe(ids(3), event_time_ms=7)
    assert held(table) == [2, 3]


@pytest.mark.parametrize("rule", ["lru", "lfu"])
def test_hit_rate_is_within_a_percent_of_the_exact_policys(make_table, rule):
    """A table of 4,096 rows samples an eighth of itself; the exact policy sorts all of it."""
    rng = np.random.default_rng(4)
    batches = [rng.zipf(1.2, 512) % 100_000 for _ in range(120)]
    rows, seen, uses, hits = 4096, {}, {}, 0
    for t, batch in enumerate(batches):
        unique, counts = np.unique(batch, return_counts=True)
        hits += len(batch) - sum(i not in seen for i in unique.tolist())
        for i, n in zip(unique.tolist(), counts.tolist(), strict=True):
            uses[i] = uses.get(i, 0) + n if i in seen else n
            seen[i] = t
        order = sorted(seen, key=lambda i: (uses[i] if rule == "lfu" else 0, seen[i]))
        for i in [i for i in order if seen[i] != t][: max(0, len(seen) - rows)]:
            del seen[i]
    exact = hits / sum(map(len, batches))
    chosen = eviction.LRU(max_rows=rows) if rule == "lru" else eviction.LFU(max_rows=rows, half_life_s=None)
    table = make_table(eviction=chosen)
    assert hit_rate(table, batches) == pytest.approx(exact, rel=0.01)
    assert table.stats().evicted > 1000


def test_several_times_of_an_id_in_one_call_are_uses_in_the_order_of_the_call(make_table, ids, tmp_path):
    """An older occurrence halves nothing, and takes back no halving: the example of docs/policies.md."""
    table = make_table(eviction=eviction.LFU(max_rows=9, half_life_s=10.0))
    for n, times in enumerate([[0], [0, 10_000], [0, 10_000, 0], [0, 0, 10_000]], 1):
        table.observe(np.full(len(times), n), event_time_ms=np.array(times))
    table.save(tmp_path)
    with TableFile(tmp_path) as file:
        parts = [file.bucket(number) for number in range(1024)]
    uses = {i: n for part in parts for i, n in zip(part["ids"].tolist(), part["uses"].tolist(), strict=True)}
    assert uses == {1: 1, 2: 1, 3: 2, 4: 2}


def test_full_bucket_goes_down_even_where_the_occurrence_admits(make_table):
    pool = np.arange(10**6)
    mates = pool[reference.bucket(pool) == 3][:40]
    rule = admission.Probability(0.5, max_counters=1024)  # one counter a bucket
    table = make_table(admission=rule)
    draws = reference.admission_draws(table.config, mates, 1)
    waits, admitted = mates[draws >= 0.5][0], mates[draws < 0.5][0]
    table.observe(np.array([waits, admitted]))
    assert table.rows()[0].tolist() == [admitted]
    assert (table.stats().counters, table.stats().counter_decrements) == (0, 1)


def lowest_norm(rows: eviction.Rows) -> np.ndarray:
    return rows.norms


eviction.register("lowest_norm", lowest_norm)


@pytest.mark.parametrize("name", ["lowest_norm", f"{__name__}:lowest_norm", "operator:attrgetter"])
def test_score_function_is_found_by_name_or_place(config, name):
    Table(config(eviction=eviction.Score(name, max_rows=2)))


def test_score_function_decides_who_goes(make_table, ids):
    table = make_table(eviction=eviction.Score("lowest_norm", max_rows=3), optimizer=optimizers.SGD(lr=1.0))
    table.observe(ids(1, 2, 3), event_time_ms=0)
    table.apply_gradients(ids(1, 2, 3), np.repeat(np.array([[9], [3], [6]], np.float32), 4, axis=1))
    table.observe(ids(4), event_time_ms=1)
    assert held(table) == [1, 3, 4]


def test_score_function_is_told_of_each_row(make_table, ids):
    told = []
    eviction.register("told", lambda rows: told.append(rows) or np.zeros(len(rows.ids)))
    table = make_table(eviction=eviction.Score("told", max_rows=2, half_life_s=1.0))
    table.observe(ids(1, 1, 1, 2), event_time_ms=1000)
    table.observe(ids(2), event_time_ms=1500)
    norms = np.sqrt((table.lookup(ids(1, 2)).astype(np.float64) ** 2).sum(axis=1))
    table.observe(ids(3), event_time_ms=2100)
    (rows,) = told
    order = np.argsort(rows.ids)
    assert rows.ids[order].tolist() == [1, 2]
    assert rows.last_seen_ms[order].tolist() == [1000, 1500]
    assert rows.admitted_ms[order].tolist() == [1000, 1000]
    assert rows.uses[order].tolist() == [3 // 2, 2]
    assert np.allclose(rows.norms[order], norms, rtol=1e-15)
    assert rows.clock_ms == 2100


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (lambda rows: np.zeros(1), r"float64 of shape \(1,\), it must give a number for each row, shape \(2,\)"),
        (lambda rows: ["a", "b"], "<U1 of shape"),
        (lambda rows: np.array([0.0, np.nan]), "gave NaN for id"),
    ],
    ids=["shape", "text", "nan"],
)
def test_scores_that_do_not_fit_are_refused(make_table, ids, scores, message, request):
    name = f"unfit {request.node.callspec.id}"
    eviction.register(name, scores)
    table = make_table(eviction=eviction.Score(name, max_rows=2))
    table.observe(ids(1, 2), event_time_ms=0)
    with pytest.raises(InputError, match=message):
        table.observe(ids(3), event_time_ms=1)
    assert held(table) == [1, 2, 3]  # observed, and not yet brought down


def test_error_of_a_score_function_comes_through(make_table, ids):
    eviction.register("divides", lambda rows: rows.ids / (rows.clock_ms - 1) if rows.clock_ms - 1 else 1 / 0)
    table = make_table(eviction=eviction.Score("divides", max_rows=1))
    table.observe(ids(1), event_time_ms=0)
    with pytest.raises(ZeroDivisionError):
        table.observe(ids(2), event_time_ms=1)
    table.observe(ids(3), event_time_ms=2)  # and the table goes on
    assert held(table) == [3]


@pytest.mark.parametrize(
    "call",
    [lambda table: table.observe(np.array([9]), event_time_ms=1), lambda table: table.stats(), len],
    ids=["observe", "stats", "len"],
)
def test_score_function_that_calls_its_own_table_is_refused(make_table, ids, call, request):
    name, tables = f"calls {request.node.callspec.id}", []
    eviction.register(name, lambda rows: call(tables[0]))
    tables.append(make_table(eviction=eviction.Score(name, max_rows=1)))
    tables[0].observe(ids(1), event_time_ms=0)
    with pytest.raises(InputError, match="a score function calls its own table"):
        tables[0].observe(ids(2), event_time_ms=0)
    assert tables[0].stats().rows == 2  # the table goes on


def test_score_function_may_look_up_in_its_own_table(make_table, ids):
    tables = []
    eviction.register("looks up", lambda rows: tables[0].lookup(rows.ids)[:, 0])
    tables.append(make_table(eviction=eviction.Score("looks up", max_rows=2), optimizer=optimizers.SGD(lr=1.0)))
    tables[0].observe(ids(1, 2), event_time_ms=0)
    tables[0].apply_gradients(ids(1, 2), np.repeat(np.array([[-9], [9]], np.float32), 4, axis=1))
    tables[0].observe(ids(3), event_time_ms=1)
    assert held(tables[0]) == [1, 3]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nobody", r"'nobody', registered are: .*lowest_norm.*Register it"),
        ("no_such_module:score", "cannot be imported"),
        ("operator:nothing", "cannot be imported"),
        ("math:pi", "is no function but float"),
    ],
)
def test_unknown_score_function_is_refused(config, name, message):
    with pytest.raises(ConfigError, match=message):
        Table(config(eviction=eviction.Score(name, max_rows=2)))


def test_names_of_score_functions_are_unique():
    eviction.register("lowest_norm", lowest_norm)  # the same again is fine
    with pytest.raises(ConfigError, match="registered already"):
        eviction.register("lowest_norm", lambda rows: rows.uses)
    with pytest.raises(ConfigError, match="no colon"):
        eviction.register("a:b", lowest_norm)


@pytest.mark.parametrize("limits", [{}, {"max_rows": 1, "max_bytes": 10**6}])
def test_there_is_one_limit(config, limits):
    with pytest.raises(ConfigError, match="one of max_rows and max_bytes"):
        Table(config(eviction=eviction.LRU(**limits)))
