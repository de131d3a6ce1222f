"""Any call from any thread: readers see whole rows, and saves and deltas whole states."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from monolith.tables import Table, TableConfig, absent, admission, eviction, expiry, initializers, optimizers

IDS = np.arange(5000)


def even_table() -> Table:
    """Zeros at first and equal gradients in all columns: the columns of a row stay equal, so a torn row shows."""
    return Table(
        TableConfig(
            name="user",
            dim=16,
            optimizer=optimizers.Adagrad(),
            initializer=initializers.Zeros(),
            absent=absent.HashedTail(rows=3, start_from_tail=True),
            admission=admission.MinCount(2),
            expiry=expiry.Idle(ttl_s=10.0),
        )
    )


def train(table: Table, steps: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for step in range(steps):
        batch = rng.choice(IDS, 2000)
        table.observe(batch, event_time_ms=step * 1000)
        table.apply_gradients(batch, np.ones((2000, 16), np.float32))
        table.sweep(50)


def run_beside(work: Callable[[], None], others: list[Callable[[], None]]) -> None:
    """Run ``work`` while the others go round and round; raise what any of them raised."""
    done, errors = threading.Event(), []

    def repeat(other: Callable[[], None]) -> None:
        try:
            while not done.is_set():
                other()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=repeat, args=(other,)) for other in others]
    for thread in threads:
        thread.start()
    try:
        work()
    finally:
        done.set()
        for thread in threads:
            thread.join()
    if errors:
        raise errors[0]


def test_readers_beside_a_writer_see_whole_rows():
    table = even_table()

    def read() -> None:
        rows = table.lookup(IDS)
        assert np.all(rows == rows[:, :1])

    run_beside(lambda: train(table, 60, 0), [read, read])


def test_score_function_is_called_beside_other_threads_of_python():
    eviction.register("threads oldest", lambda rows: rows.last_seen_ms - rows.uses)
    rule = eviction.Score("threads oldest", max_rows=1500)
    table = Table(TableConfig(name="user", dim=16, initializer=initializers.Zeros(), eviction=rule))

    def read() -> None:
        rows = table.lookup(IDS)
        assert np.all(rows == rows[:, :1])

    run_beside(lambda: train(table, 30, 5), [read, table.stats, lambda: table.observe(IDS[:50], event_time_ms=0)])
    stats = table.stats()
    assert stats.evicted > 1000
    assert stats.rows == stats.admitted - stats.evicted


def test_saves_beside_writers_hold_one_moment(tmp_path):
    table = even_table()
    seen = []

    def save() -> None:
        table.save(tmp_path)
        seen.append(Table.open(tmp_path).stats())

    run_beside(lambda: train(table, 40, 1), [save, lambda: train(table, 1, 2)])
    for stats in seen:
        assert stats.rows == stats.admitted - stats.expired
        assert stats.observed % 2000 == 0


def test_replica_follows_while_it_is_read_and_the_table_trains():
    table, replica = even_table(), even_table()

    def follow() -> None:
        table.cut()
        replica.apply(table.delta(replica.sequence - 1))

    def read() -> None:
        rows = replica.lookup(IDS)
        assert np.all(rows == rows[:, :1])

    run_beside(lambda: train(table, 40, 3), [follow, read])
    follow()
    ids, values = replica.rows()
    image = table.delta(0)
    assert ids.tolist() == image.ids.tolist()
    assert values.tobytes() == image.values.tobytes()


def test_reader_beside_a_writer_changes_no_bit(state_of):
    alone, beside = even_table(), even_table()
    train(alone, 30, 4)
    run_beside(lambda: train(beside, 30, 4), [lambda: beside.lookup(IDS), beside.stats, beside.rows])
    assert state_of(alone) == state_of(beside)


HELPERS = """
import os, time
import numpy as np
from monolith.tables import Table, TableConfig, set_threads
from monolith.tables.collection import Collection, Output
from monolith.tables.batch import Bag

def running():
    return len(os.listdir("/proc/self/task"))

def train(ids):
    tables = {name: Table(TableConfig(name=name, dim=2)) for name in ("a", "b", "c")}
    collection = Collection(tables, [Output(name, name, name) for name in tables])
    step = collection.forward([Bag(np.arange(n), np.ones(n, np.int32)) for n in (ids, ids, ids)], 0)
    step.apply_gradients([np.ones((ids, 2), np.float32)] * 3)

train(200_000)
alone = running()
for threads in range(2, 17):
    set_threads(threads)
    for ids in (3_000, 5_000, 4_096 * threads):
        train(ids)
assert running() == alone + 15, (running(), alone)
set_threads(3)
deadline = time.monotonic() + 60
while running() > alone + 2 and time.monotonic() < deadline:
    train(5_000)
assert running() == alone + 2, (running(), alone)
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs /proc, where threads can be counted")
def test_there_are_as_many_threads_as_were_asked_for_however_many_tables_came_and_went():
    subprocess.run([sys.executable, "-c", HELPERS], check=True, timeout=120)


FIRST_TABLES = """
import sys, threading
sys.setswitchinterval(1e-6)
from monolith.tables import Table, TableConfig
together = threading.Barrier(8)
def make(number):
    together.wait()
    Table(TableConfig(name=f"t{number}", dim=4))
threads = [threading.Thread(target=make, args=(number,)) for number in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


def test_first_tables_of_a_process_may_be_made_in_several_threads():
    """msgspec crashes where two threads prepare one type; about every second of such processes did."""
    for _ in range(6):
        subprocess.run([sys.executable, "-c", FIRST_TABLES], check=True, timeout=60)
