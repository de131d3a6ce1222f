"""The shim and its disk are held to programs of which it is known what a power cut leaves of them."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from power_cut import SECTOR, Content, Disk, UnmodelledError, build

DRAWS = 200

PROLOGUE = """
import os
def write(path, data, sync, mode="wb", at=0):
    with open(path, mode, buffering=0) as file:
        file.seek(at)
        file.write(data)
        if sync:
            os.fsync(file.fileno())
def sync_folder(path):
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)
"""


@pytest.fixture(scope="module")
def shim(tmp_path_factory) -> Path:
    return build(tmp_path_factory.mktemp("shim"))


class Machine:
    """A folder, programs that run in it, and the plug."""

    def __init__(self, folder: Path, shim: Path) -> None:
        self.root, self.shim = folder / "disk", shim
        self.root.mkdir()
        self.disk = Disk(self.root, folder / "trace")

    def run(self, program: str) -> None:
        """Run ``program`` to its end in the folder."""
        environment = {**os.environ, **self.disk.environment(self.shim)}
        subprocess.run([sys.executable, "-c", PROLOGUE + program], check=True, cwd=self.root, env=environment)
        self.disk.follow()
        assert self.disk.differences() == []

    def worst(self) -> dict[str, bytes]:
        """What is left where nothing survives that was not promised."""
        return self._left(None)

    def outcomes(self) -> set[frozenset[tuple[str, bytes]]]:
        """What many cuts at this instant leave."""
        return {frozenset(self._left(random.Random(seed)).items()) for seed in range(DRAWS)}

    def _left(self, draw: random.Random | None) -> dict[str, bytes]:
        tree = self.disk.after_cut(draw)
        return {name: content.data() for name, content in tree.items() if isinstance(content, Content)}


@pytest.fixture
def machine(tmp_path, shim) -> Machine:
    return Machine(tmp_path, shim)


def left(*states: dict[str, bytes]) -> set[frozenset[tuple[str, bytes]]]:
    return {frozenset(state.items()) for state in states}


def test_what_was_not_synced_is_lost(machine):
    machine.run("write('kept', b'a', True); sync_folder('.'); write('kept', b'bb', False); write('lost', b'c', False)")
    assert machine.worst() == {"kept": b"a"}


def test_what_was_synced_is_kept_however_the_cut_falls(machine):
    machine.run("write('kept', b'x' * 5000, True); sync_folder('.')")
    assert machine.outcomes() == left({"kept": b"x" * 5000})


def test_a_synced_file_whose_folder_was_not_synced_may_have_no_name(machine):
    machine.run("write('file', b'x', True)")
    assert machine.worst() == {}
    assert machine.outcomes() == left({}, {"file": b"x"})


def test_a_synced_file_in_a_new_folder_is_lost_with_a_folder_that_was_not_synced(machine):
    machine.run("os.mkdir('a'); write('a/file', b'x', True); sync_folder('a')")
    assert machine.worst() == {}


def test_a_rename_whose_folder_was_not_synced_is_there_as_a_whole_or_not_at_all(machine):
    machine.run("write('file', b'old', True); write('new', b'new', True); sync_folder('.'); os.replace('new', 'file')")
    assert machine.worst() == {"file": b"old", "new": b"new"}
    assert machine.outcomes() == left({"file": b"old", "new": b"new"}, {"file": b"new"})


def test_a_rename_without_a_sync_of_the_file_before_may_leave_it_empty(machine):
    machine.run("write('file', b'old', True); sync_folder('.'); write('new', b'new', False); os.replace('new', 'file')")
    machine.run("sync_folder('.')")
    assert machine.worst() == {"file": b""}
    assert machine.outcomes() == left({"file": b""}, {"file": b"new"}, {"file": bytes(3)})


def test_a_removed_file_comes_back_where_its_folder_was_not_synced(machine):
    machine.run("write('file', b'x', True); sync_folder('.'); os.unlink('file')")
    assert machine.outcomes() == left({}, {"file": b"x"})


def test_a_write_over_several_sectors_is_torn_between_them(machine):
    machine.run(f"write('file', b'o' * {2 * SECTOR}, True); sync_folder('.')")
    machine.run(f"write('file', b'n' * {2 * SECTOR}, False, mode='r+b')")
    old, new = b"o" * SECTOR, b"n" * SECTOR
    assert machine.outcomes() == left(*({"file": a + b} for a in (old, new) for b in (old, new)))


def test_a_cut_leaves_any_version_of_a_sector_that_was_written_twice(machine):
    machine.run("write('file', b'1', True); sync_folder('.'); write('file', b'2', False, mode='r+b')")
    machine.run("write('file', b'3', False, mode='r+b')")
    assert machine.outcomes() == left(*({"file": data} for data in (b"1", b"2", b"3")))


def test_a_durable_write_promises_its_own_bytes_and_no_others(machine):
    machine.run(f"write('file', bytes({2 * SECTOR}), True); sync_folder('.'); write('file', b'a', False, mode='r+b')")
    machine.run(f"fd = os.open('file', os.O_WRONLY | os.O_DSYNC); os.pwrite(fd, b'b', {SECTOR}); os.close(fd)")
    second = b"b".ljust(SECTOR, b"\0")
    assert machine.worst() == {"file": bytes(SECTOR) + second}
    assert machine.outcomes() == left(*({"file": first.ljust(SECTOR, b"\0") + second} for first in (b"", b"a")))


def test_what_a_cut_left_is_the_start_of_what_comes_after(machine):
    machine.run("write('file', b'one', True); sync_folder('.'); write('file', b'two', False)")
    machine.disk.cut(None)
    machine.run("write('file', open('file', 'rb').read() + b' more', True)")
    assert machine.worst() == {"file": b"one more"}


def test_several_processes_are_seen_in_the_order_in_which_they_write(machine):
    machine.run(
        "write('file', bytes(9), True); sync_folder('.'); pid = os.fork()\n"
        "if pid: os.waitpid(pid, 0); write('file', b'b', True, mode='r+b', at=1)\n"
        "else: write('file', b'a', False, mode='r+b')"
    )
    assert machine.worst() == {"file": b"ab" + bytes(7)}


def test_a_hard_link_is_a_name_more_for_one_file_and_lasts_with_its_folder(machine):
    machine.run("write('file', b'x', True); sync_folder('.'); os.link('file', 'other')")
    assert machine.worst() == {"file": b"x"}
    machine.disk.cut(None)
    machine.run("os.link('file', 'other'); sync_folder('.'); write('other', b'y', True, mode='r+b')")
    assert machine.worst() == {"file": b"y", "other": b"y"}


def test_a_call_without_a_model_is_named(machine):
    with pytest.raises(UnmodelledError, match=r"other: symlink"):
        machine.run("write('file', b'x', True); os.symlink('file', 'other')")


def test_a_write_that_was_not_seen_is_found(machine):
    machine.run("write('file', b'x', True)")
    (machine.root / "file").write_bytes(b"y")
    (machine.root / "another").write_bytes(b"")
    assert machine.disk.differences() == ["/another", "/file"]
