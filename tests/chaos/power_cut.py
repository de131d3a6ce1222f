"""Power cuts for processes: what a folder may look like after one, rebuilt from what `power.c` wrote down.

A `Disk` begins as a folder that is wholly on the disk, and follows a trace. At a cut it gives one of the states that
POSIX allows, drawn by a generator:

- bytes that were written and not synced are there or not, sector by sector (512 bytes), in any mixture of the versions
  that the sector went through since the last sync; so are a file's lengths;
- names that came, changed or went and whose *folder* was not synced: the first so many of these changes are there, none
  of them, or all. A file's own sync promises nothing about its name, as POSIX has it (ext4 and XFS promise more).

`draw=None` is the worst: nothing that was not promised. `Disk.differences` holds the trace to the folder as it is, so
a write that the shim missed is found, not forgotten. Not modelled: a disk that lies about a sync, sectors that are
damaged by the cut, and what is written through a mapping (LMDB's `lock.mdb` only, which is zeros after a cut).
"""

from __future__ import annotations

import fcntl
import os
import random
import shutil
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

SECTOR = 512
_ZEROS = bytes(1 << 16)
MAPPED = "lock.mdb"  # written through a mapping, and made anew by LMDB when nobody has it open
_HEAD = struct.Struct("<BQQII")
_SOURCE = Path(__file__).with_name("power.c")


class UnmodelledError(Exception):
    """A process did to a file what the shim has no model of."""


@dataclass
class Content:
    """The bytes of a file: sectors that are not all zeros, and how many bytes there are in all."""

    length: int = 0
    sectors: dict[int, bytes] = field(default_factory=dict)

    @classmethod
    def of(cls, data: bytes) -> Content:
        """``data``, taken apart."""
        content = cls(len(data))
        for at in range(0, len(data), 1 << 16):
            if data.startswith(_ZEROS, at, at + (1 << 16)):
                continue
            for sector in _sectors(at, min(1 << 16, len(data) - at)):
                content.sectors[sector] = data[sector * SECTOR : (sector + 1) * SECTOR].ljust(SECTOR, b"\0")
        return content

    def data(self) -> bytes:
        """All of it in one piece."""
        data = bytearray(self.length)
        for sector, part in self.sectors.items():
            at = sector * SECTOR
            data[at : at + SECTOR] = part[: max(0, self.length - at)]
        return bytes(data)

    def write(self, path: Path) -> None:
        """Have the new file ``path`` hold it, its zeros without taking room."""
        with path.open("wb") as file:
            for sector, part in sorted(self.sectors.items()):
                file.seek(sector * SECTOR)
                file.write(part)
            file.truncate(self.length)


class File:
    """What is on the disk, and each sector's and the length's versions since: the first is what is promised."""

    def __init__(self, content: Content | None = None) -> None:
        content = content or Content()
        self.durable = content.sectors
        self.since: dict[int, list[bytes]] = {}
        self.lengths = [content.length]

    def sync(self) -> None:
        """All that was done is on the disk."""
        self.durable |= {sector: versions[-1] for sector, versions in self.since.items()}
        self.since, self.lengths = {}, self.lengths[-1:]

    def write(self, offset: int, data: bytes, *, durable: bool) -> None:
        """Bytes at a place; ``durable``: their sectors, and the length that they need, are on the disk."""
        for sector in _sectors(offset, len(data)):
            at = sector * SECTOR - offset
            old, low, high = self._newest(sector), max(0, -at), min(SECTOR, len(data) - at)
            self._version(sector, old[:low] + data[at + low : at + high] + old[high:])
            if durable:
                self.durable[sector] = self.since.pop(sector)[-1]
        if offset + len(data) > self.lengths[-1]:
            self.lengths.append(offset + len(data))
        if durable:
            self.lengths = self.lengths[-1:]

    def cut_off(self, length: int) -> None:
        """It is ``length`` bytes long now; what lies beyond reads zeros, should it grow again."""
        for sector in {*self.durable, *self.since}:
            keep = length - sector * SECTOR
            if keep < SECTOR and self._newest(sector)[max(0, keep) :].strip(b"\0"):
                self._version(sector, self._newest(sector)[: max(0, keep)].ljust(SECTOR, b"\0"))
        self.lengths.append(length)

    def now(self) -> Content:
        """What a process reads."""
        newest = {sector: versions[-1] for sector, versions in self.since.items()}
        return Content(self.lengths[-1], self.durable | newest)

    def after_cut(self, draw: random.Random | None) -> Content:
        """One of the contents that a cut may leave."""
        picked = {sector: draw.choice(versions) for sector, versions in self.since.items()} if draw else {}
        length = draw.choice(self.lengths) if draw else self.lengths[0]
        return Content(length, {s: part for s, part in (self.durable | picked).items() if s * SECTOR < length})

    def _newest(self, sector: int) -> bytes:
        return self.since[sector][-1] if sector in self.since else self.durable.get(sector, _ZEROS[:SECTOR])

    def _version(self, sector: int, data: bytes) -> None:
        self.since.setdefault(sector, [self._newest(sector)]).append(data)


@dataclass
class Folder:
    """Names on the disk, names now, and the changes between: each is a set of names that change at once."""

    durable: dict[str, Node] = field(default_factory=dict)
    now: dict[str, Node] = field(default_factory=dict)
    done: list[dict[str, Node | None]] = field(default_factory=list)

    def change(self, names: dict[str, Node | None]) -> None:
        """Names get nodes, or go (None)."""
        _rename(self.now, names)
        self.done.append(names)

    def sync(self) -> None:
        """The names of now are on the disk."""
        self.durable, self.done = dict(self.now), []

    def after_cut(self, draw: random.Random | None) -> dict[str, Node]:
        """The names that a cut may leave."""
        names = dict(self.durable)
        for change in self.done[: draw.randint(0, len(self.done)) if draw else 0]:
            _rename(names, change)
        return names


Node = File | Folder
Record = tuple[str, int, int, bytes, bytes]  # op, inode, number and two strings, as `power.c` says
Tree = dict[str, Any]  # name -> Content, or another tree


class Disk:
    """A folder as its disk sees it. ``root`` and everything in it counts as durable at the start."""

    def __init__(self, root: Path, trace: Path) -> None:
        self.root, self.trace = root.resolve(), trace
        self._nodes: dict[int, Node] = {}
        self._tree = self._load(self.root)
        self._read = 0

    def environment(self, shim: Path) -> dict[str, str]:
        """What a process needs in its environment to be seen."""
        return {"LD_PRELOAD": str(shim), "POWER_ROOT": str(self.root), "POWER_TRACE": str(self.trace)}

    @contextmanager
    def still(self) -> Iterator[None]:
        """No process is within a call that changes a file: the moment to kill or stop one."""
        with self.trace.open("ab") as trace:
            fcntl.flock(trace, fcntl.LOCK_EX)
            yield

    def follow(self, records: int | None = None) -> int:
        """Take in what the processes did since, or the next ``records`` of it; how many that were.

        Call it while none of the processes runs.
        """
        count = 0
        for op, inode, number, first, second in islice(self.records(), records):
            self._take(op, inode, number, first.decode(), second)
            self._read += _HEAD.size + len(first) + len(second)
            count += 1
        return count

    def read(self, name: str) -> bytes:
        """What a process would read now in the file ``name``, of ``root`` itself."""
        file = self._tree.now[name]
        assert isinstance(file, File), name
        return file.now().data()

    def cut(self, draw: random.Random | None) -> None:
        """Kill nothing, but leave ``root`` as a power cut would, and begin again from there. `follow` comes first."""
        tree = self.after_cut(draw)
        for entry in list(self.root.iterdir()):
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        write_tree(self.root, tree)
        self.begin_again()

    def begin_again(self) -> None:
        """Take everything in the folder as it is for durable. Call it while none of the processes runs."""
        self.trace.write_bytes(b"")
        self._nodes, self._read = {}, 0
        self._tree = self._load(self.root)

    def after_cut(self, draw: random.Random | None) -> Tree:
        """What such a cut would leave; nothing changes. `follow` comes first."""
        return _chosen(self._tree, draw)

    def differences(self, folder: Path | None = None) -> list[str]:
        """Where ``folder`` (default: ``root``) is not what the trace says; empty when the shim saw everything."""
        told, found = dict(_contents(self._tree, "")), dict(_on_disk(folder or self.root))
        skipped = {name for name in told.keys() | found.keys() if name.endswith("/" + MAPPED)}
        names = (told.keys() | found.keys()) - skipped
        return sorted(name for name in names if told.get(name) != found.get(name))

    def records(self) -> Iterator[Record]:
        """The trace from where `follow` stands on, which stays there unless these are taken by it."""
        with self.trace.open("a+b") as file:
            file.seek(self._read)
            while len(head := file.read(_HEAD.size)) == _HEAD.size:
                op, inode, number, length1, length2 = _HEAD.unpack(head)
                yield chr(op), inode, number, file.read(length1), file.read(length2)

    def _take(self, op: str, inode: int, number: int, path: str, more: bytes) -> None:
        if op in "CM":
            self._nodes[inode] = node = File() if op == "C" else Folder()
            self._parent(path).change({os.path.basename(path): node})
        elif op == "U":
            self._parent(path).change({os.path.basename(path): None})
        elif op == "L":
            node = self._parent(path).now[os.path.basename(path)]
            self._parent(more.decode()).change({os.path.basename(more.decode()): node})
        elif op == "R":
            self._move(path, more.decode())
        elif op in "A?" and os.path.basename(path) == MAPPED:
            return
        elif op in "WDTS":
            self._write(op, self._nodes[inode], number, more)
        else:
            raise UnmodelledError(f"{path}: {more.decode() or 'mapped for shared writing'}")

    def _write(self, op: str, node: Node, number: int, data: bytes) -> None:
        if op == "S":
            node.sync()
        elif isinstance(node, File):
            if op == "T":
                node.cut_off(number)
            else:
                node.write(number, data, durable=op == "D")

    def _move(self, source: str, target: str) -> None:
        if os.path.dirname(source) != os.path.dirname(target):
            raise UnmodelledError(f"{source}: renamed into another folder, {target}")
        folder, was, becomes = self._parent(source), os.path.basename(source), os.path.basename(target)
        folder.change({was: None, becomes: folder.now[was]})

    def _parent(self, path: str) -> Folder:
        at: Node = self._tree
        for name in Path(path).parent.relative_to(self.root).parts:
            assert isinstance(at, Folder), path
            at = at.now[name]
        assert isinstance(at, Folder), path
        return at

    def _load(self, path: Path) -> Folder:
        """A folder of the file system, all of it durable."""
        folder = Folder()
        for entry in os.scandir(path):
            if entry.is_dir(follow_symlinks=False):
                folder.durable[entry.name] = self._load(Path(entry.path))
            else:
                if entry.inode() not in self._nodes:  # else a second name of a file
                    self._nodes[entry.inode()] = File(Content.of(Path(entry.path).read_bytes()))
                folder.durable[entry.name] = self._nodes[entry.inode()]
        folder.now = dict(folder.durable)
        self._nodes[path.stat().st_ino] = folder
        return folder


def build(folder: Path) -> Path:
    """Compile the shim into ``folder``. Raises FileNotFoundError or CalledProcessError where there is no C compiler."""
    shim = folder / "power.so"
    command = ["cc", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", str(shim), str(_SOURCE), "-ldl"]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return shim


def write_tree(folder: Path, tree: Tree) -> None:
    """Have the empty ``folder`` hold ``tree``."""
    for name, content in tree.items():
        if isinstance(content, dict):
            (folder / name).mkdir()
            write_tree(folder / name, content)
        else:
            content.write(folder / name)


def _chosen(folder: Folder, draw: random.Random | None) -> Tree:
    nodes = sorted(folder.after_cut(draw).items())
    return {name: _chosen(x, draw) if isinstance(x, Folder) else x.after_cut(draw) for name, x in nodes}


def _sectors(offset: int, length: int) -> range:
    return range(offset // SECTOR, -(-(offset + length) // SECTOR)) if length else range(0)


def _rename(names: dict[str, Node], change: dict[str, Node | None]) -> None:
    for name, node in change.items():
        if node is None:
            names.pop(name, None)
        else:
            names[name] = node


def _contents(folder: Folder, prefix: str) -> Iterator[tuple[str, bytes | None]]:
    for name, node in folder.now.items():
        if isinstance(node, Folder):
            yield f"{prefix}/{name}", None
            yield from _contents(node, f"{prefix}/{name}")
        else:
            yield f"{prefix}/{name}", node.now().data()


def _on_disk(root: Path) -> Iterator[tuple[str, bytes | None]]:
    for path in root.rglob("*"):
        yield f"/{path.relative_to(root)}", None if path.is_dir() else path.read_bytes()
