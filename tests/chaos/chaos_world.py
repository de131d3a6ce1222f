"""Everything that a chaos run torments: its folder, its processes, and what must be true of them in the end.

The folder::

    FOLDER/small/disk/   streams, state and store: what has a power cut; `small` is a tmpfs where one may be mounted
    FOLDER/trace         what `power.c` wrote down since the last cut
    FOLDER/backup/       a state folder as it was once
    FOLDER/*.log         what the processes said

A process that ends by itself, with anything but what the fault at hand allows, ends the run: `ChaosError`.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import chaos_events
import yaml
from chaos_job import MODEL, Servers, job
from chaos_process import PATIENCE_S, ChaosError, Process
from power_cut import Disk, build

from monolith.commands.compare import compare_snapshots
from monolith.commands.demo_processes import free_port
from monolith.config.load import load_job
from monolith.datasets.online import read_steps
from monolith.serving import Client
from monolith.serving.parity import compare_images
from monolith.serving.store import open_store
from monolith.streaming.source import open_source
from monolith.training.snapshot import Snapshots
from monolith.training.status import read_status

SMALL_MIB = 512
PATHS = [str(Path(__file__).parent)]  # where the producer is found


class World:
    """One run. ``servers`` are a broker and a Redis of the run's own, where it has them."""

    def __init__(self, folder: Path, seed: int, events: int, rate: float, servers: Servers | None = None) -> None:
        self.folder, self.seed, self.events, self.rate = folder, seed, events, rate
        self.small = folder / "small"
        self.small.mkdir(parents=True)
        self.has_small_disk = _mount(self.small)
        self.root = self.small / "disk"
        self.root.mkdir()
        self.backup = folder / "backup"
        self.servers = servers
        self.disk = Disk(self.root, folder / "trace")
        self.port = free_port()
        self.job = folder / "job.yaml"
        self.job.write_text(yaml.safe_dump(job(self.root, servers)))
        self.settings = load_job(self.job, [])
        self.store = str(self.settings.store)
        self.state = Path(self.settings.state)
        shim = self.disk.environment(build(folder))
        environment = {
            "PYTHONSAFEPATH": "1",
            "PYTHONFAULTHANDLER": "1",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(PATHS),
        } | shim
        urls = (str(self.settings.input.features), str(self.settings.input.actions))
        words = {
            "trainer": ["monolith", "train", str(self.job), "--quiet"],
            "server": ["monolith", "serve", "--store", self.store, "--model", MODEL, "--port", str(self.port)],
            "producer": ["chaos_events", *urls, str(seed), str(events), str(rate)],
        }
        self.processes = {
            name: Process(name, [sys.executable, "-m", *command], folder, environment, self.disk.still)
            for name, command in words.items()
        }
        self.processes["producer"].may_end = True

    # --- while it runs -----------------------------------------------------------------------------------------------

    @property
    def trainer(self) -> Process:
        """`monolith train`."""
        return self.processes["trainer"]

    def revive(self) -> None:
        """Start what does not run."""
        for process in self.processes.values():
            if not (process.may_end and self.is_written()):
                process.start()

    def check(self) -> None:
        """Raise `ChaosError` if a process ended by itself."""
        for process in self.processes.values():
            code = process.ended()
            if code is not None and not process.is_excused(code):
                raise ChaosError(f"{process.name} ended with {code}:\n{process.tail()}")

    def wait(self, condition: Callable[[], Any], what: str, timeout_s: float = PATIENCE_S) -> Any:
        """Poll until it is true. Raises `ChaosError` when it is not in time, or when a process ended."""
        deadline = time.monotonic() + timeout_s
        while not (value := condition()):
            self.check()
            if time.monotonic() > deadline:
                words = "\n".join(f"--- {p.name}\n{p.tail()}" for p in self.processes.values())
                raise ChaosError(f"waited {timeout_s:g} s for {what}\n{words}")
            time.sleep(0.02)
        return value

    def snapshots(self) -> int:
        """A number that grows when the trainer makes another step durable."""
        return max(Snapshots(self.state / "snapshots").steps(), default=0)

    def acknowledged(self) -> int:
        """How many events the producer said are durable."""
        log = self.processes["producer"].log
        said = log.read_text(errors="replace").split() if log.exists() else []
        return max((int(word) + 1 for word in said if word.isdigit()), default=0)

    def is_written(self) -> bool:
        """Whether the producer has nothing more to do."""
        log = self.processes["producer"].log
        return log.exists() and log.read_text(errors="replace").split()[-1:] == ["done"]

    def get(self, path: str, timeout_s: float = 5.0) -> int:
        """The status that the server answers with; 0 for none."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=timeout_s) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return int(error.code)
        except OSError:
            return 0

    def cut_power(self, rng: random.Random) -> str:
        """Everything dies, and of the folder is left what the disk promised; perhaps more. What was lost, in words."""
        for process in self.processes.values():
            process.kill()
        if self.servers is not None:
            self.servers.redis.kill()
        self._follow()
        before = _sizes(self.root)
        worst = rng.random() < 0.3
        self.disk.cut(None if worst else rng)
        after = _sizes(self.root)
        lost = sum(before.get(name) != after.get(name) for name in before.keys() | after.keys())
        if self.servers is not None:
            self.servers.redis.start()
        else:
            self._check_acknowledged()
        return f"power cut, {'nothing' if worst else 'some'} of what was not synced is left: {lost} files differ"

    def _follow(self) -> None:
        self.disk.follow()
        if unseen := self.disk.differences():
            raise ChaosError(f"the shim did not see what was written to {unseen}")

    def restore_state(self) -> bool:
        """Put the backup of the state folder in its place, with the trainer dead; False where there is none yet."""
        if not self.backup.exists():
            return False
        for process in self.processes.values():
            process.kill()
        self._follow()
        shutil.rmtree(self.state)
        shutil.copytree(self.backup, self.state)
        self.disk.begin_again()
        return True

    def back_up_state(self) -> None:
        """Copy the state folder as it is at one moment, while the trainer runs."""
        with self.disk.still():
            shutil.rmtree(self.backup, ignore_errors=True)
            shutil.copytree(self.state, self.backup)

    def remove(self, folder: Path) -> None:
        """Take a folder away from under whoever has it open."""
        program = "import shutil, sys; shutil.rmtree(sys.argv[1])"
        environment = {**os.environ, **self.trainer.environment}
        subprocess.run([sys.executable, "-c", program, str(folder)], env=environment, check=True)

    def _check_acknowledged(self) -> None:
        """What the producer was told is durable is there."""
        features = str(self.settings.input.features)
        said = self.acknowledged()
        there = chaos_events.next_number(features) if said else 0
        if there < said:
            raise ChaosError(f"{said} events were acknowledged, after a power cut the log holds {there}")

    # --- in the end --------------------------------------------------------------------------------------------------

    def finish(self) -> Iterator[str]:
        """Let everything come to its end, then hold it against what was promised. Raises `ChaosError`."""
        self.revive()
        self.wait(self.is_written, "the producer to write all events", 600.0)
        self.trainer.stop()
        ended = self.run("train", self.job, "--quiet", "--set", "input.follow=false")
        if ended.returncode != 0:
            raise ChaosError(f"the run does not end: {ended.stdout}{ended.stderr}")
        yield self._nothing_lost()
        yield self._letters()
        yield self._parity()
        yield self._replay()
        yield self._served()
        for process in self.processes.values():
            process.stop()
        yield self._leftovers()

    def run(self, *words: object) -> subprocess.CompletedProcess[str]:
        """A command to its end."""
        command = [sys.executable, "-m", "monolith", *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)

    def _nothing_lost(self) -> str:
        """Every good event was trained once, with its label; by the run's own journal."""
        steps = read_steps(self.settings, self.state / "journal", recorded=True)
        trained = Counter(
            (request, label)
            for step in steps
            for (request, _), label in zip(step.keys, step.batch.labels[:, 0].tolist(), strict=True)
        )
        wanted = chaos_events.expected(self.seed, self.events)
        if (
            self.servers is not None
        ):  # Kafka's stamp is the producer's, and tells that a time weeks ahead of it is wrong
            wanted = Counter({key: count for key, count in wanted.items() if not key[0].endswith("x")})
        if trained != wanted:
            few, many = list((wanted - trained).items()), list((trained - wanted).items())
            raise ChaosError(f"not trained: {len(few)} ({few[:5]}); trained and not to be: {len(many)} ({many[:5]})")
        status = read_status(self.state / "status.json")
        if status is None or status.samples != wanted.total():
            raise ChaosError(f"the trainer says {status and status.samples} samples, there are {wanted.total()}")
        return f"{self.events:,} events, each trained exactly once, in {len(steps):,} steps"

    def _letters(self) -> str:
        source = open_source(str(self.settings.input.dead_letters))
        try:
            places = Counter(record.key for _ in range(100) for record in source.poll(10_000, 0.05))
        finally:
            source.close()
        wanted, again = chaos_events.letters(self.seed, self.events), sum(places.values()) - len(places)
        if self.servers is None and len(places) != wanted:
            raise ChaosError(f"{wanted} records cannot be used, {len(places)} are in the dead letters")
        return f"{len(places):,} dead letters ({again} of them written again after a crash)"

    def _parity(self) -> str:
        compared = self.run("inspect", self.store, "--model", MODEL, "--against", self.state)
        if compared.returncode != 0:
            raise ChaosError(f"parity: {compared.stdout}{compared.stderr}")
        rows = sum(int(line.split()[2].replace(",", "")) for line in compared.stdout.splitlines() if " equal" in line)
        return f"parity: {rows:,} rows in the store are the trainer's, bit by bit"

    def _replay(self) -> str:
        again = self.folder / "again"
        store = f"lmdb://{again / 'store'}"
        replayed = self.run("replay", self.job, "--state", again / "state", "--store", store)
        if "identical to the run's snapshot" not in replayed.stdout:
            raise ChaosError(f"replay: {replayed.stdout}{replayed.stderr}")
        newest = [Snapshots(state / "snapshots").newest() for state in (self.state, again / "state")]
        differences = compare_snapshots(*(each.path for each in newest if each is not None))
        stores = [open_store(url, MODEL, create=False) for url in (self.store, store)]
        try:
            differences += compare_images(*stores)
        finally:
            for each in stores:
                each.close()
        if differences:
            raise ChaosError(f"replay: {differences}")
        return f"replay: {replayed.stdout.splitlines()[0].removeprefix('replayed ')}, the same bits"

    def _served(self) -> str:
        """The replica has what the store has."""
        store = open_store(self.store, MODEL, create=False)
        try:
            image = store.image()
        finally:
            store.close()
        sequence, rows = image.delta.sequence, 0
        self.wait(lambda: self._version() == sequence, f"the replica to be at sequence {sequence}")
        with Client(f"http://127.0.0.1:{self.port}") as client:
            for name in image.model.card.tables:
                table = image.delta.tables[name]
                if client.lookup(name, table.ids).tobytes() != table.values.tobytes():
                    raise ChaosError(f"the replica answers other rows of {name} than the store holds")
                rows += len(table.ids)
        return f"served: {rows:,} rows over HTTP are the store's, bit by bit"

    def _version(self) -> int:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/version", timeout=5) as answer:
                return int(json.load(answer)["sequence"])
        except OSError:
            return -1

    def _leftovers(self) -> str:
        """No process is left, and no file but what docs/operations.md names."""
        alive = [p.name for p in self.processes.values() if p.child is not None]
        known = {"curves.jsonl", "status.json", "streams.json", "journal", "snapshots"}
        odd = [p for p in self.state.iterdir() if p.name not in known and not p.name.startswith("graph-")]
        odd += [p for p in (self.state / "snapshots").iterdir() if not p.name.isdigit()]
        odd += [p for p in (self.state / "journal").iterdir() if p.suffix != ".journal" and p.name != "lock"]
        if alive or odd:
            raise ChaosError(f"left over: {alive} {[str(path) for path in odd]}")
        return f"no process and no file is left over; {_megabytes(self.root)} on disk"

    def close(self, *, keep: bool) -> None:
        """Kill everything; with ``keep`` the files stay where they can be looked at."""
        for process in self.processes.values():
            process.kill()
        if self.has_small_disk:
            if keep:
                subprocess.run(["cp", "-a", "--sparse=always", self.root, self.folder / "left"], check=False)
            subprocess.run(["umount", str(self.small)], check=False)


def _mount(folder: Path) -> bool:
    """A file system of its own, small enough to be filled; False where one may not be mounted."""
    options = ["mount", "-t", "tmpfs", "-o", f"size={SMALL_MIB}m", "tmpfs", str(folder)]
    return os.geteuid() == 0 and subprocess.run(options, capture_output=True, check=False).returncode == 0


def _sizes(root: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path.relative_to(root)): (path.stat().st_size, hash(path.read_bytes()))
        for path in root.rglob("*")
        if path.is_file() and path.name != "lock.mdb"
    }


def _megabytes(root: Path) -> str:
    return f"{sum(p.stat().st_blocks * 512 for p in root.rglob('*') if p.is_file()) / 1e6:,.1f} MB"
