"""Does a job that runs for ever stay as it is? Memory, lag, freshness and disk of a live run by time, with a plot.

    python bench/soak.py [--minutes 15] [--hours H] [--rate 1500] [--ids 1.0] [--dir build/soak] [--set a.b=c]...

A daemon (`monolith train`) follows two logs with retention and publishes to LMDB, a replica (`monolith serve`) serves
that. Events come at ``--rate`` a second, stamped with the present; each shows a user of ``--users`` that come and go
and, with chance ``--ids``, an item that nobody saw before. So the item table is at its `max_rows` all the time, and
rows expire faster than a step's sweep (`--set train.sweep_rows=N`) looks at them. Everything that keeps the past for a
time keeps it for less than the first half: what still grows in the second half grows for ever.

Printed every ``--every`` seconds: resident memory of trainer and replica (anonymous pages; those of files, which the
system takes back when it needs them, apart), records not read yet, time from an event to its served row, and bytes on
disk. The verdict is on the last half: by how much the fitted line rises over it, beside the scatter around that line.
Exit 1 where memory or disk rises by more than 2 % of its level there. The plot is DIR/soak.png, the figures are in
DIR/soak.csv.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from machine import machine

from monolith.commands.demo_processes import Daemon, Server
from monolith.commands.local_stream import fresh_folder
from monolith.events import ActionEvent, FeatureEvent
from monolith.streaming.codec import encode
from monolith.streaming.source import Sink, open_sink

MIB = 2**20
APPEND_S = 0.05  # between two appends of the writer
MOST_RISE = 0.02  # of the level, over the last half
JUDGED = ("trainer_mib", "replica_mib", "snapshots_mib", "store_mib", "streams_mib")


@dataclass(frozen=True)
class Look:
    """One line of the report. Times in seconds, sizes in MiB."""

    at_s: float
    trainer_mib: float  # anonymous memory
    trainer_files_mib: float  # mapped files that are in memory: the logs and the store
    replica_mib: float
    replica_files_mib: float
    lag: int
    p50_s: float
    p99_s: float
    rows: int
    snapshots_mib: float
    journal_mib: float  # grows to two files of 64 MiB, whatever the job is like
    store_mib: float
    streams_mib: float


def job(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """A small DeepFM whose item table is always full. Everything that forgets by time does so within ``keep_s``."""
    keep_s = options.keep_s
    rows = {"dim": 17, "optimizer": {"kind": "rowwise_adagrad"}}
    return {
        "name": "soak",
        "state": str(folder / "state"),
        "store": f"lmdb://{folder / 'store'}",
        "input": {name: f"log://{folder / name}" for name in ("features", "actions", "dead_letters")},
        "join": {"positive_actions": ["click"], "window_s": 2, "early_s": 5, "dedup_s": keep_s},
        "tables": [
            {"name": "user", **rows, "expiry": {"kind": "idle", "ttl_s": keep_s / 2}},
            {
                "name": "item",
                **rows,
                "expiry": {"kind": "idle", "ttl_s": keep_s / 2},
                "eviction": {"kind": "lru", "max_rows": options.max_rows},
            },
        ],
        "model": {"kind": "deepfm", "hidden": [32]},
        "train": {"batch_size": 256, "step_records": 512, "snapshot_every_s": 10, "sweep_rows": 16},
    }


class Writer(threading.Thread):
    """Appends events at a rate, stamped with the present, until ``done`` is set. A log that is away is tried again."""

    def __init__(self, urls: tuple[str, str], options: argparse.Namespace) -> None:
        super().__init__(daemon=True)
        self.urls, self.rate, self.new_share, self.users = urls, options.rate, options.ids, options.users
        self.done = threading.Event()
        self.written = 0
        self._rng = np.random.default_rng(options.seed)

    def run(self) -> None:
        """Write until ``done`` is set."""
        with ExitStack() as stack:
            sinks = [stack.enter_context(closing(open_sink(url))) for url in self.urls]
            start = time.monotonic()
            while not self.done.wait(APPEND_S):
                due = int((time.monotonic() - start) * self.rate)
                self._write(sinks, min(due - self.written, int(self.rate)))

    def _write(self, sinks: list[Sink], count: int) -> None:
        now_ms = time.time_ns() // 1_000_000
        shown = [self._shown(self.written + i, now_ms) for i in range(count)]
        acted = [ActionEvent(x.request_id, x.item_id, "click", now_ms) for x in shown if self._rng.random() < 0.2]
        for sink, events in zip(sinks, (shown, acted), strict=True):
            if events:
                sink.append([(e.request_id.encode(), encode(e), e.event_time_ms) for e in events])
        self.written += count

    def _shown(self, number: int, now_ms: int) -> FeatureEvent:
        generation = number // (20 * self.users)  # after so many events other people come
        user = generation * self.users + int(self._rng.integers(self.users))
        item = 10**9 + number if self._rng.random() < self.new_share else int(self._rng.zipf(1.3) % 10**6)
        return FeatureEvent(f"r{number}", str(item), now_ms, {"user": user, "item": item})


class Soak:
    """The processes of one run, looked at."""

    def __init__(self, folder: Path, options: argparse.Namespace, stack: ExitStack) -> None:
        settings = job(folder, options)
        path = folder / "job.yaml"
        path.write_text(yaml.safe_dump(settings))
        self.folder = folder
        retained = f"?retain_s={options.keep_s}"
        inputs = settings["input"]
        self.writer = Writer((inputs["features"] + retained, inputs["actions"] + retained), options)
        self.writer.start()
        stack.callback(self.writer.join)
        stack.callback(self.writer.done.set)
        self.daemon = Daemon(path, options.set, folder / "state", folder / "train.log")
        stack.callback(self.daemon.kill)
        self.server = Server(settings["store"], "soak", None, folder / "serve.log")
        stack.callback(self.server.kill)
        self.server.wait_until_ready(120.0)
        self.start = time.monotonic()

    def look(self) -> Look:
        """Everything as it is now; raises when a process has ended."""
        status = self.daemon.status()
        self.server.check()
        freshness = self.server.get("/version")["freshness"] or {"p50_ms": float("nan"), "p99_ms": float("nan")}
        trainer, replica = (resident(each.process.pid) for each in (self.daemon, self.server))
        return Look(
            time.monotonic() - self.start,
            *trainer,
            *replica,
            lag=status.lag if status else 0,
            p50_s=freshness["p50_ms"] / 1e3,
            p99_s=freshness["p99_ms"] / 1e3,
            rows=sum(table["rows"] for table in status.tables.values()) if status else 0,
            snapshots_mib=on_disk(self.folder / "state" / "snapshots"),
            journal_mib=on_disk(self.folder / "state" / "journal"),
            store_mib=on_disk(self.folder / "store"),
            streams_mib=sum(on_disk(self.folder / name) for name in ("features", "actions", "dead_letters")),
        )


def resident(pid: int) -> tuple[float, float]:
    """MiB of anonymous memory of a process, and of mapped files that are in memory."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    kib = {name: int(value.split()[0]) for name, _, value in (line.partition(":") for line in lines) if "kB" in value}
    return kib["RssAnon"] / 1024, (kib["RssFile"] + kib["RssShmem"]) / 1024


def on_disk(folder: Path) -> float:
    """MiB that the files of a folder take; files that go while they are counted are left out."""
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(path, name)).st_blocks * 512
            except FileNotFoundError:
                continue
    return total / MIB


@dataclass(frozen=True)
class Trend:
    """A figure's fitted line over the last half."""

    level: float  # mean
    rise: float  # of the line, from begin to end
    error: float  # standard error of the rise
    scatter: float  # standard deviation around the line

    @property
    def flat(self) -> bool:
        """Whether it does not grow by more than a small part of its level."""
        return self.rise <= MOST_RISE * self.level


def trend(looks: list[Look], value: Callable[[Look], float]) -> Trend:
    """The least-squares line over the last half of the run's time."""
    half = [look for look in looks if look.at_s >= looks[-1].at_s / 2]
    at, values = np.array([x.at_s for x in half]), np.array([value(x) for x in half])
    slope, first = np.polyfit(at, values, 1)
    scatter = float(np.std(values - (first + slope * at), ddof=2))
    length = at[-1] - at[0]
    error = scatter / (np.std(at) * np.sqrt(len(at))) * length
    return Trend(float(values.mean()), float(slope * length), float(error), scatter)


def judge(looks: list[Look]) -> bool:
    """Print the verdict; whether everything that is judged is flat."""
    length_s = looks[-1].at_s / 2
    print(f"\nthe last half, {length_s:,.0f} s:        level      rise   +- error   scatter   per hour")
    good = True
    for name in JUDGED:
        found = trend(looks, lambda look, name=name: getattr(look, name))
        good &= found.flat
        word = "flat" if found.flat else f"RISES by more than {MOST_RISE:.0%}"
        figures = f"{found.level:8.1f}  {found.rise:+8.2f}   {2 * found.error:8.2f}  {found.scatter:8.2f}"
        print(f"  {name:<25} {figures}   {found.rise / length_s * 3600:+8.1f}   {word}")
    return good


def plot(looks: list[Look], path: Path, title: str) -> None:
    """Four pictures over one axis of time."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    panels = {
        "memory, MiB": ("trainer_mib", "replica_mib", "trainer_files_mib", "replica_files_mib"),
        "lag, records": ("lag",),
        "freshness, s": ("p50_s", "p99_s"),
        "disk, MiB": ("snapshots_mib", "journal_mib", "store_mib", "streams_mib"),
    }
    figure, axes = plt.subplots(len(panels), 1, sharex=True, figsize=(9, 11), layout="constrained")
    minutes = [look.at_s / 60 for look in looks]
    for axis, (label, names) in zip(axes, panels.items(), strict=True):
        for name in names:
            axis.plot(minutes, [getattr(look, name) for look in looks], label=name, linewidth=1)
        axis.set_ylabel(label)
        axis.set_ylim(bottom=0)
        axis.axvspan(minutes[-1] / 2, minutes[-1], alpha=0.06)
        axis.legend(fontsize=8)
    axes[0].set_title(title)
    axes[-1].set_xlabel("minutes")
    figure.savefig(path, dpi=120)


def show(look: Look) -> None:
    """One line of the report."""
    memory = f"trainer {look.trainer_mib:6.1f} +{look.trainer_files_mib:5.1f}  "
    memory += f"replica {look.replica_mib:5.1f} +{look.replica_files_mib:5.1f} MiB"
    disk = f"snapshots {look.snapshots_mib:5.1f}  journal {look.journal_mib:4.1f}  store {look.store_mib:5.1f}  "
    disk += f"streams {look.streams_mib:5.1f} MiB"
    fresh = f"fresh {look.p50_s:4.2f} {look.p99_s:5.2f} s"
    print(
        f"{look.at_s:6.0f} s  {memory}  lag {look.lag:6,}  {fresh}  rows {look.rows:7,}  {disk}",
        flush=True,
    )


def main() -> int:
    """Run it for as long as was asked, then judge."""
    options = arguments()
    folder = Path(options.dir).resolve()
    fresh_folder(folder)
    print(json.dumps(machine()))
    looks: list[Look] = []
    with ExitStack() as stack:
        soak = Soak(folder, options, stack)
        while not looks or looks[-1].at_s < options.seconds:
            time.sleep(max(0.0, soak.start + options.every * len(looks) - time.monotonic()))
            looks.append(soak.look())
            show(looks[-1])
        written = soak.writer.written
    with (folder / "soak.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, [field.name for field in fields(Look)])
        table.writeheader()
        table.writerows(asdict(look) for look in looks)
    print(f"\n{written:,} events, {written / looks[-1].at_s:,.0f} a second")
    plot(looks, folder / "soak.png", f"{options.rate:,.0f} events/s, {options.ids:.0%} with a new item")
    good = judge(looks)
    print(f"plot {folder / 'soak.png'}, figures {folder / 'soak.csv'}")
    return 0 if good else 1


def arguments() -> argparse.Namespace:
    """The command line; ``seconds`` is its length."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--hours", type=float, default=0.0, help="added to the minutes; alone, they are the length")
    parser.add_argument("--rate", type=float, default=1500.0, help="events a second")
    parser.add_argument("--ids", type=float, default=0.5, help="share of events with an item nobody saw before")
    parser.add_argument("--users", type=int, default=2000, help="users at any time")
    parser.add_argument("--max-rows", type=int, default=10_000, help="of the item table")
    parser.add_argument("--keep-s", type=float, help="of duplicates, streams, idle rows (default: a tenth of the run)")
    parser.add_argument("--every", type=float, default=5.0, help="seconds between two looks")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dir", default="build/soak")
    parser.add_argument("--set", action="append", default=[], metavar="a.b=c", help="override one setting of the job")
    options = parser.parse_args()
    minutes = options.hours * 60 if options.hours and options.minutes == 15.0 else options.hours * 60 + options.minutes
    options.seconds = 60 * minutes
    options.keep_s = options.keep_s or options.seconds / 10
    return options


if __name__ == "__main__":
    sys.exit(main())
