"""What only LMDB does: folders, several processes, killed readers, and bytes that change on the disk."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
import textwrap

import lmdb
import numpy as np
import pytest

from monolith.errors import ConfigError, CorruptError, DurabilityError, UnavailableError
from monolith.serving.lmdb_env import translated
from monolith.serving.store import open_store


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "store"


@pytest.fixture
def connect(folder):
    stores = []

    def opened(model: str = "demo", **options):
        stores.append(open_store(f"lmdb://{folder}", model, **options))
        return stores[-1]

    yield opened
    for store in stores:
        store.close()


def fill(store, model):
    """Write every version of the model's history, one by one."""
    generation = store.take_over(model.card, b"the graph's bytes").generation
    for sequence in range(1, model.sequence + 1):
        store.apply(model.delta(sequence - 1, sequence), generation, model.lineage)


def served(store, model):
    return model.rows_of(store.image().delta.tables["user"])


def python(code: str, *arguments, **options) -> subprocess.Popen:
    """A process of its own that runs ``code``."""
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def flip(folder, needle: bytes, at: int = 0) -> None:
    """Change one bit of every place in the data file where ``needle`` stands."""
    path = folder / "data.mdb"
    data = bytearray(path.read_bytes())
    start = data.find(needle)
    assert start >= 0, "the test looks for bytes that are not in the file"
    while start >= 0:
        data[start + at] ^= 0x10
        start = data.find(needle, start + len(needle))
    path.write_bytes(data)


def test_a_relative_url_is_a_folder_below_the_working_one(tmp_path, monkeypatch, model):
    monkeypatch.chdir(tmp_path)
    store = open_store("lmdb://some/store", "demo")
    fill(store, model)
    store.close()
    assert (tmp_path / "some" / "store" / "data.mdb").exists()


def test_a_reader_makes_no_folder_and_finds_the_store_once_it_is_there(connect, folder, model):
    reader = connect(create=False)
    with pytest.raises(UnavailableError, match="no LMDB store in"):
        reader.version()
    assert not folder.exists()
    fill(connect(), model)
    assert served(reader, model) == model.states[3]


def test_a_folder_holds_one_model(connect, model):
    fill(connect(), model)
    with pytest.raises(ConfigError, match="for model 'demo', not 'another'"):
        connect("another").image()


def test_what_was_written_is_there_after_closing_and_opening(connect, model):
    store = connect()
    fill(store, model)
    store.close()
    store.close()
    assert served(connect(), model) == model.states[3]


def test_another_process_reads_the_same_rows(connect, folder, model):
    fill(connect(), model)
    reader = python(
        """
        import sys, numpy as np
        from monolith.serving.store import open_store
        values, found = open_store(f"lmdb://{sys.argv[1]}", "demo").read("user", np.array([2, 1]))
        print(values.tobytes().hex(), found.tolist())
        """,
        folder,
    )
    output, errors = reader.communicate(timeout=60)
    assert output.split(maxsplit=1) == [(model.states[3][2] + bytes(12)).hex(), "[True, False]\n"], errors


def test_a_writer_killed_at_any_moment_leaves_a_whole_version(connect, folder, scripted):
    """The child publishes for ever; what is there after SIGKILL must be one of its versions, all of it."""
    writer = python(
        """
        import sys, numpy as np
        from monolith.card import ModelCard
        from monolith.serving.store import open_store
        from monolith.tables.delta import Delta, ModelDelta
        store = open_store(f"lmdb://{sys.argv[1]}", "demo")
        held = store.take_over(ModelCard(model="demo", lineage="run", tables={"user": 2}, features=[]))
        ids, none = np.arange(2_000), np.zeros(0, np.int64)
        for sequence in range(held.sequence + 1, 10**9):
            table = Delta(sequence - 1, sequence, ids, np.full((2_000, 2), sequence, np.float32), none)
            store.apply(ModelDelta(sequence - 1, sequence, 0, 0, {"user": table}, b""), held.generation, "run")
            print(sequence, flush=True)
        """,
        folder,
    )
    for _ in range(5):
        acknowledged = int(writer.stdout.readline())
    os.kill(writer.pid, signal.SIGKILL)
    writer.communicate()
    image = connect().image()
    assert image.delta.sequence >= acknowledged
    assert set(image.delta.tables["user"].values.ravel()) == {float(image.delta.sequence)}


def test_the_slot_of_a_killed_reader_is_freed_by_the_next_write(connect, folder, model):
    store = connect()
    fill(store, model)
    reader = python(
        """
        import sys
        from monolith.serving.store import open_store
        rows = open_store(f"lmdb://{sys.argv[1]}", "demo").rows("user")
        next(rows)
        print("reading", flush=True)
        sys.stdin.read()
        """,
        folder,
        stdin=subprocess.PIPE,
    )
    assert reader.stdout.readline() == "reading\n"
    assert str(reader.pid) in store._environment().lmdb.readers()
    reader.kill()
    reader.communicate()
    store.take_over(model.card)
    assert str(reader.pid) not in store._environment().lmdb.readers()


def test_pages_of_old_versions_are_used_again(connect, folder, scripted):
    model = scripted(dim=16)
    for _ in range(40):
        model.write(*range(500))
    store = connect()
    generation = store.take_over(model.card).generation
    sizes = []
    for sequence in range(1, 41):
        store.apply(model.delta(0, sequence), generation, model.lineage)
        sizes.append((folder / "data.mdb").stat().st_size)
    assert sizes[-1] == sizes[9]


def test_a_full_disk_is_unavailable_and_loses_nothing(folder, scripted, model):
    """A limit on the file's length stands in for the disk's end."""
    child = python(
        """
        import resource, signal, sys
        import numpy as np
        from monolith.card import ModelCard
        from monolith.errors import UnavailableError
        from monolith.serving.store import open_store
        from monolith.tables.delta import Delta, ModelDelta

        def delta(base, sequence, rows):
            values = np.full((rows, 16), sequence, np.float32)
            table = Delta(base, sequence, np.arange(rows), values, np.zeros(0, np.int64))
            return ModelDelta(base, sequence, 0, 0, {"user": table}, b"")

        store = open_store(f"lmdb://{sys.argv[1]}", "demo")
        held = store.take_over(ModelCard(model="demo", lineage="run", tables={"user": 16}, features=[]))
        store.apply(delta(0, 1, 10), held.generation, "run")
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, resource.RLIM_INFINITY))
        try:
            store.apply(delta(1, 2, 50_000), held.generation, "run")
        except UnavailableError as error:
            print("unavailable", "there is room" in str(error), store.image().delta.sequence, flush=True)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        store.apply(delta(1, 2, 50_000), held.generation, "run")
        print(store.image().delta.sequence, len(store.image().delta.tables["user"].ids))
        """,
        folder,
    )
    output, errors = child.communicate(timeout=60)
    assert output.splitlines() == ["unavailable True 1", "2 50000"], errors


def test_little_address_space_is_enough(folder):
    """Containers and shells may limit it; the map then begins smaller."""
    child = python(
        """
        import sys
        from monolith.serving.store import open_store
        print(open_store(f"lmdb://{sys.argv[1]}", "demo").version().sequence)
        """,
        folder,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (8 * 2**30, 8 * 2**30)),
    )
    output, errors = child.communicate(timeout=60)
    assert output == "0\n", errors


@pytest.mark.parametrize(
    ("needle", "at", "message"),
    [
        (lambda m: m.states[3][2] + b"", 5, r"table 'user': row 2 fails its checksum"),
        (lambda m: (2).to_bytes(8, "big") + m.states[3][2], 7, r"row \d+ fails its checksum|rows, \d+ can be read"),
        (lambda m: b"the graph's bytes", 3, r"the graph of .* fails its checksum"),
        (lambda m: m.dense(3), 30, r"the dense of .* fails its checksum"),
        (lambda m: b'"model":"demo"', 9, r"the model card of .* fails its checksum"),
    ],
)
def test_a_flipped_byte_is_found_and_named(connect, folder, model, needle, at, message):
    store = connect()
    fill(store, model)
    store.close()
    flip(folder, needle(model), at)
    with pytest.raises(CorruptError, match=message):
        connect().image()


def test_a_flipped_byte_in_the_head_stops_the_writer_too(connect, folder, model):
    store = connect()
    fill(store, model)
    store.close()
    flip(folder, b'"watermark_ms":', 3)
    with pytest.raises(CorruptError, match="the head of"):
        connect().take_over(model.card)


def test_a_flipped_byte_in_the_log_is_found_and_named(connect, folder, model):
    from monolith.serving.ledger import Version

    store = connect()
    fill(store, model)
    version = store.version()
    after = Version(lineage=version.lineage, image=version.image, sequence=1)
    store.close()
    flip(folder, model.lineage.encode() + bytes(-len(model.lineage) % 8) + model.dense(2), 3)
    with pytest.raises(CorruptError, match="log entry 2: checksum"):
        connect().deltas(after, 0.0)


def test_a_file_that_is_no_lmdb_store_is_corrupt(connect, folder):
    folder.mkdir()
    (folder / "data.mdb").write_bytes(b"not a store" * 1000)
    with pytest.raises(CorruptError, match="is damaged"):
        connect().version()


def test_a_store_of_a_later_format_is_refused(connect, model):
    import msgspec

    from monolith.errors import VersionError
    from monolith.serving import ledger

    store = connect()
    fill(store, model)
    with store._transaction(write=True) as txn:
        txn.put("head", ledger.seal_json(msgspec.structs.replace(txn.head(), format=3)))
    with pytest.raises(VersionError, match="has format 3, this build reads 1 and 2"):
        store.version()


@pytest.mark.parametrize(
    "url",
    [
        "lmdb://",
        "lmdb:///",
        "lmdb:///a\0b",
        "lmdb://[",
        "redis://[::1",
        "lmdb:///x?color=red",
        "lmdb:///x?log_deltas=-1",
        "lmdb:///x?log_mb=many",
        "redis:///0",
        "redis://host/zero",
        "redis://host:port/0",
        "redis://host/0?model=a{b}",
        "redis://host/0",
        "memcached://host",
        "store",
    ],
)
def test_a_url_that_cannot_be_is_a_config_error_with_the_allowed_ones(url):
    with pytest.raises(ConfigError, match=r"allowed are lmdb:///DIR .* redis://HOST:PORT/DB"):
        open_store(url)


def test_a_url_that_cannot_be_does_not_show_its_password():
    with pytest.raises(ConfigError) as caught:
        open_store("redis://user:secret@host/0?color=red", "demo")
    assert "secret" not in str(caught.value)


def test_ids_of_every_sign_come_back_in_order(connect, scripted):
    model = scripted()
    model.write(-(2**63), -1, 0, 1, 2**63 - 1)
    fill(connect(), model)
    assert connect().image().delta.tables["user"].ids.tolist() == [-(2**63), -1, 0, 1, 2**63 - 1]
    values, found = connect().read("user", np.array([-(2**63), 5, -1], np.int64))
    assert found.tolist() == [True, False, True]
    assert values[2].tobytes() == model.states[1][-1]


def test_folder_that_cannot_be_made_is_unavailable_by_name(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UnavailableError, match=r"file/store.* cannot be used .*choose another folder"):
        open_store(f"lmdb://{tmp_path}/file/store", "demo").version()


def test_store_whose_head_the_disk_did_not_take_wants_a_new_process():
    with (
        pytest.raises(DurabilityError, match=r"cannot be used any more .*start this process again"),
        translated("there"),
    ):
        raise lmdb.PanicError("mdb_txn_begin: MDB_PANIC: Update of meta page failed or environment had fatal error")


@pytest.mark.parametrize(("code", "advice"), [(errno.ENOSPC, "make room"), (errno.EACCES, "give it the right")])
def test_store_that_the_disk_refuses_says_what_helps_against_that_very_error(code, advice):
    refused = pytest.raises(UnavailableError, match=f"what it held is kept; .*{advice}")
    with refused as error, translated("there"):
        raise lmdb.DiskError(f"mdb_txn_commit: {os.strerror(code)}")
    assert ("room" in str(error.value)) == (code == errno.ENOSPC)


def test_no_hole_in_the_lock_file_can_end_the_process_on_a_full_disk(tmp_path, model):
    """LMDB writes to its lock file by a mapping; where a hole of it finds no room, that is a SIGBUS and no error."""
    store = open_store(f"lmdb://{tmp_path}/store", "demo")
    store.take_over(model.card)
    store.close()
    found = (tmp_path / "store" / "lock.mdb").stat()
    assert found.st_size >= 1024 * 64
    assert found.st_blocks * 512 >= found.st_size
