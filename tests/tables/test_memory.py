"""Tables in a file and at the end of their room: the bits of a table in memory, and errors that leave it whole."""

import ctypes
import errno
import gc
import os
import resource
import subprocess
import sys

import numpy as np
import pytest
import reference

from monolith.errors import ConfigError
from monolith.tables import Table, TableFile, admission, expiry, initializers, memory, options
from monolith.tables import optimizers as opt

FILE_STEP = 16 << 20  # of disk taken at once


@pytest.fixture
def in_file(tmp_path):
    folder = tmp_path / "rows"
    folder.mkdir()
    return memory.File(folder=str(folder))


@pytest.fixture
def files_end_at():
    """Files of this process may not grow beyond so many bytes, as on a full disk; None: they may again."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(size):
        resource.setrlimit(resource.RLIMIT_FSIZE, (before[0] if size is None else size, before[1]))

    yield limit
    limit(None)


def live(table: Table, steps: int = 8, ids: int = 3000) -> None:
    rng = np.random.default_rng(1)
    for step in range(steps):
        batch = rng.zipf(1.3, ids) % (10 * ids)
        found = table.step(batch, event_time_ms=step * 700)
        found.apply_gradients(rng.standard_normal(found.values.shape).astype(np.float32))
        table.sweep(300)
        table.cut()


RULES = {
    "plain": {},
    "adam": {"dim": 17, "optimizer": opt.Adam(amsgrad=True), "storage": "bfloat16"},
    "everything": {
        "dim": 8,
        "optimizer": opt.Adagrad(clip_global_norm=1.0),
        "admission": admission.MinCount(2, half_life_s=100.0),
        "expiry": expiry.Idle(ttl_s=2.0),
    },
}


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())
def test_file_gives_the_bits_of_memory(make_table, state_of, in_file, rule):
    tables = make_table(**rule), make_table(memory=in_file, **rule)
    for table in tables:
        live(table)
    assert tables[0].delta(0).values.tobytes() == tables[1].delta(0).values.tobytes()
    assert state_of(tables[0]) == state_of(tables[1])


def test_file_that_grows_many_times_gives_the_bits_of_memory(make_table, state_of, in_file):
    tables = make_table(dim=64), make_table(dim=64, memory=in_file)
    for table in tables:
        table.observe(np.arange(300_000))
        table.apply_gradients(np.arange(0, 300_000, 7), np.ones((42858, 64), np.float32))
    assert 4 * FILE_STEP < 64 * 4 * 300_000
    assert state_of(tables[0]) == state_of(tables[1])


def to_disk() -> bool:
    """Write out what tables keep in files, and take it from memory; False where the system does not do that."""
    pageout, done = 21, True
    with open("/proc/self/maps") as maps:
        ranges = [line.split()[0].split("-") for line in maps if "monolith-table" in line]
    for first, last in ranges:
        address, size = int(first, 16), int(last, 16) - int(first, 16)
        done &= ctypes.CDLL(None).madvise(ctypes.c_void_p(address), ctypes.c_size_t(size), pageout) == 0
    return done


def test_bits_are_the_same_when_rows_come_from_the_disk(make_table, state_of, in_file):
    tables = make_table(dim=64), make_table(dim=64, memory=in_file)
    for table in tables:
        table.observe(np.arange(60_000))
    read = 0
    for seed in range(3):
        to_disk()
        os.sync()  # what is being written is not forgotten
        if not to_disk():
            pytest.skip("this system pages nothing out")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_inblock
        for table in tables:
            rng = np.random.default_rng(seed)
            found = table.step(rng.integers(0, 60_000, 8000))
            found.apply_gradients(rng.standard_normal((8000, 64)).astype(np.float32))
        read += resource.getrusage(resource.RUSAGE_SELF).ru_inblock - before
        assert tables[1].lookup(np.arange(60_000)).tobytes() == tables[0].lookup(np.arange(60_000)).tobytes()
        os.sync()
        to_disk()
        assert state_of(tables[0]) == state_of(tables[1])
    if read == 0:
        pytest.skip("the folder of the test lies in memory, or this system does not count what is read")


def test_saved_table_opens_under_either_memory(make_table, config, state_of, in_file, tmp_path):
    table = make_table(memory=in_file)
    live(table)
    before = table.save(tmp_path).read_bytes()
    with TableFile(tmp_path) as file:
        assert file.config == config()
    assert b'"memory"' not in before
    opened = [Table.open(tmp_path), Table.open(tmp_path, config()), Table.open(tmp_path, config(memory=in_file))]
    assert [each.config.memory for each in opened] == [memory.Ram(), memory.Ram(), in_file]
    for each in (*opened, table):
        live(each, steps=2)
    assert len({state_of(each) for each in (*opened, table)}) == 1


def seen_twice(table: Table, ids: np.ndarray) -> None:
    for _ in range(2):
        table.observe(ids)


def own_files() -> list[str]:
    links = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
    return [os.readlink(link) for link in links if os.path.islink(link) and "monolith-table" in os.readlink(link)]


def test_file_has_no_name_and_goes_with_the_table(make_table, in_file):
    gc.collect()
    before = own_files()
    table = make_table(memory=in_file)
    live(table)
    assert os.listdir(in_file.folder) == []
    mine = [name for name in own_files() if name not in before]
    assert len(mine) == 2  # rows and index
    assert all(name.startswith(in_file.folder) and name.endswith("(deleted)") for name in mine)
    del table
    gc.collect()
    assert own_files() == before


def test_folder_that_is_none_is_refused_by_name(make_table, tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "nowhere", tmp_path / "file", ""):
        with pytest.raises(
            ConfigError, match=rf"table 'user': memory\.folder '{folder}' is no folder; allowed: a fold"
        ):
            make_table(memory=memory.File(folder=str(folder)))


def test_folder_that_takes_no_files_is_refused_by_name(make_table, in_file, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(ConfigError, match=rf"memory\.folder '{in_file.folder}' cannot be written to"):
        make_table(memory=in_file)


def test_folder_that_goes_meanwhile_is_an_oserror_by_name(make_table, in_file, monkeypatch):
    monkeypatch.setattr(options, "_folder", lambda config: "/nowhere/at/all")
    with pytest.raises(
        FileNotFoundError, match="/nowhere/at/all: a table's file cannot be made: No such file"
    ) as caught:
        make_table(memory=in_file)
    assert caught.value.errno == errno.ENOENT


@pytest.mark.parametrize("settings", [{}, {"admission": admission.MinCount(2)}], ids=["always", "min_count"])
def test_full_disk_is_an_oserror_and_the_table_stays_whole(
    make_table, state_of, in_file, files_end_at, tmp_path, settings
):
    settings = {"dim": 256, "optimizer": opt.Adagrad(), **settings}
    table, plain = make_table(memory=in_file, **settings), make_table(**settings)
    every = np.arange(40_000)
    files_end_at(FILE_STEP)
    with pytest.raises(OSError, match=f"{in_file.folder}: a table's file cannot grow: ") as caught:
        seen_twice(table, every)
    assert caught.value.errno == errno.EFBIG

    held, values = table.rows()
    assert len(table) == len(held) == FILE_STEP // 2072 - 1  # a row is 2,072 bytes; the first place is of no row
    assert held.tolist() == every[: len(held)].tolist()
    assert values.tobytes() == reference.initial_values(table.config, held).tobytes()
    grads = np.ones((len(held), 256), np.float32)
    table.apply_gradients(held, grads)  # what is there learns on
    with pytest.raises(OSError, match="cannot grow"):
        seen_twice(table, every[-1:])
    folder = tmp_path / "saved"
    files_end_at(None)
    table.save(folder)
    assert len(Table.open(folder)) == len(held)

    for each in (table, plain):
        seen_twice(each, every)
    plain.apply_gradients(held, grads)
    assert table.lookup(every).tobytes() == plain.lookup(every).tobytes()
    assert table.stats().counters == plain.stats().counters == 0


def test_end_of_the_range_is_a_memoryerror_and_the_table_stays_whole(config, make_table):
    table = make_table(dim=4, initializer=initializers.Uniform())
    table.native = options.native_table(table.config, reserve_bytes=2 << 20)
    every = np.arange(100_000)
    for _ in range(2):  # the second time from where the first one ended
        with pytest.raises(MemoryError):
            table.observe(every)
    held, values = table.rows()
    assert held.tolist() == every[: len(held)].tolist()
    assert len(held) > 10_000
    assert values.tobytes() == reference.initial_values(table.config, held).tobytes()


def test_removed_rows_make_room_again_at_the_end_of_the_range(make_table):
    table = make_table(expiry=expiry.Idle(ttl_s=1.0))
    table.native = options.native_table(table.config, reserve_bytes=2 << 20)
    with pytest.raises(MemoryError):
        table.observe(np.arange(100_000), event_time_ms=0)
    full = len(table)
    table.advance(5000)
    assert table.sweep() == full
    new = np.arange(200_000, 200_000 + full)
    table.observe(new, event_time_ms=5000)
    assert table.rows()[0].tolist() == new.tolist()


FORK = """
import os, signal
import numpy as np
from monolith.tables import Table, TableConfig, optimizers, set_threads

set_threads(2)
table = Table(TableConfig(name="user", dim=64, optimizer=optimizers.Adagrad(lr=0.1)))
for first in range(0, 200_000, 20_000):
    table.observe(np.arange(first, first + 20_000))
    if (child := os.fork()) == 0:
        signal.alarm(30)  # one that waits for a thread that stayed behind ends
        table.observe(np.arange(first + 20_000, first + 40_000))
        table.lookup(np.arange(first + 40_000)).tofile("child")
        del table
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
table.observe(np.arange(200_000, 220_000))
table.lookup(np.arange(220_000)).tofile("parent")
"""


def test_a_forked_process_goes_on_with_its_copy(tmp_path):
    """Its helpers stayed behind: those that share a call's work, and the one that makes memory ready."""
    subprocess.run([sys.executable, "-c", FORK], cwd=tmp_path, check=True, timeout=120)
    vectors = (tmp_path / "parent").read_bytes()
    assert len(vectors) == 220_000 * 64 * 4
    assert (tmp_path / "child").read_bytes() == vectors
