"""What a snapshot of the joiner costs: all that waits, against what changed of it since the last snapshot.

    python bench/joiner_snapshot.py [--waiting N] [--repeats N] [--json PATH]

N feature events of 30 integers wait for their label. Then, again and again, one in a hundred changes: half of these get
their action, half are new. Each time it is saved in two ways, in turn, through files, checksums and fsync as `monolith
train` has them: `all` writes the whole state, as a snapshot did before there were segments; `changed` is what a
snapshot does. Printed are bytes that were written, seconds that training stands still, and their ratio with its
spread, and the seconds that a restart needs to read it back.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
from machine import machine

from monolith.config import JoinConfig
from monolith.events import ActionEvent, Record, Shown
from monolith.streaming.joiner import Joiner
from monolith.streaming.joiner_segments import read_joiner
from monolith.training.snapshot import SNAPSHOT_VERSION, Manifest, Snapshots, open_snapshot

START_MS = 1_700_000_000_000
ROW = bytes(4 + 30 * 8)  # 30 integers, packed
SHARE = 100  # one in so many changes
JOIN = JoinConfig(window_s=1e6, dedup_s=1e6)


def show(joiner: Joiner, numbers: range) -> None:
    """A feature event a millisecond."""
    for i in numbers:
        event = Shown(f"r{i}", f"i{i % 1000}", START_MS + i, ROW)
        joiner.add(Record(None, None, event.event_time_ms, event.event_time_ms, 0, i), event, 0, event.event_time_ms)
        if i % 10_000 == 0:
            joiner.advance(START_MS + i)
    joiner.advance(START_MS + numbers.stop)


def act(joiner: Joiner, numbers: range, at_ms: int) -> None:
    """An action for each of the events with these numbers."""
    for i in numbers:
        event = ActionEvent(f"r{i}", f"i{i % 1000}", "click", at_ms)
        joiner.add(Record(None, None, at_ms, at_ms, 0, i), event, 1, at_ms)
    joiner.advance(at_ms)


class Keeper:
    """Snapshots of the joiner alone, of one way."""

    def __init__(self, folder: Path) -> None:
        self.snapshots = Snapshots(folder)
        self._steps = count(1)

    def whole(self, joiner: Joiner) -> dict[str, float]:
        """Write all that waits; seconds and bytes."""
        started = time.perf_counter()
        state = joiner.state()
        self.snapshots.write(self._manifest(), {"stream.bin": state})
        return {"s": time.perf_counter() - started, "bytes": float(len(state))}

    def changed(self, joiner: Joiner) -> dict[str, float]:
        """Write what changed since the last time; seconds and bytes, those of copies too."""
        there = {path.stat().st_ino for path in self.snapshots.directory.rglob("*")}
        started = time.perf_counter()
        saved = joiner.save(whole=False)
        path = self.snapshots.write(self._manifest(), {"stream.bin": saved.index, **saved.files})
        taken_s = time.perf_counter() - started
        files = [found.stat() for found in path.rglob("*") if found.is_file()]
        return {"s": taken_s, "bytes": float(sum(found.st_size for found in files if found.st_ino not in there))}

    def read(self) -> float:
        """Seconds from the newest snapshot to a joiner that stands where it was taken."""
        started = time.perf_counter()
        newest = open_snapshot(self.snapshots.path(self.snapshots.steps()[-1]))
        Joiner(JOIN, len(ROW)).restore(read_joiner(newest.read("stream.bin"), newest.read))
        return time.perf_counter() - started

    def _manifest(self) -> Manifest:
        step = next(self._steps)
        return Manifest(version=SNAPSHOT_VERSION, model="bench", lineage="bench", step=step, sequence=0, job={})


def measure(waiting: int, repeats: int, folder: Path) -> dict[str, Any]:
    """Both ways in turn, ``repeats`` times."""
    joiner, all_of_it, segments = Joiner(JOIN, len(ROW)), Keeper(folder / "all"), Keeper(folder / "changed")
    show(joiner, range(waiting))
    begin = [segments.changed(joiner) for _ in range(2)]  # the second has copies of the files of the first
    runs, half = [], waiting // (2 * SHARE)
    for turn in range(repeats):
        act(joiner, range(turn * half, (turn + 1) * half), START_MS + waiting + turn * half)
        show(joiner, range(waiting + turn * half, waiting + (turn + 1) * half))
        ways = {"all": all_of_it.whole, "changed": segments.changed}
        runs.append({way: ways[way](joiner) for way in (sorted(ways) if turn % 2 else sorted(ways)[::-1])})
    return {"begin": begin, "runs": runs, "read_s": {"all": all_of_it.read(), "changed": segments.read()}}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--waiting", type=int, default=1_000_000, help="events that wait for their label")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(args.waiting, args.repeats, Path(folder))
    print(f"{args.waiting:,} waiting events, 1 in {SHARE} of them changed since the last snapshot")
    for way in ("all", "changed"):
        seconds = sorted(run[way]["s"] for run in found["runs"])
        written = statistics.median(run[way]["bytes"] for run in found["runs"]) / 2**20
        spread = f"({seconds[0]:.3f} to {seconds[-1]:.3f})"
        print(f"  {way:<9}{written:>8.1f} MiB in {statistics.median(seconds):.3f} s   {spread}", end="")
        print(f"   read back in {found['read_s'][way]:.2f} s")
    for what in ("bytes", "s"):
        ratios = sorted(run["all"][what] / run["changed"][what] for run in found["runs"])
        words = {"bytes": "fewer bytes", "s": "less time"}[what]
        print(f"  {statistics.median(ratios):.0f}x {words} ({ratios[0]:.0f} to {ratios[-1]:.0f})")
    first = " and ".join(f"{run['bytes'] / 2**20:.1f} MiB in {run['s']:.2f} s" for run in found["begin"])
    print(f"  the first two snapshots of a process: {first}")
    if args.json:
        args.json.write_bytes(msgspec.json.format(json.dumps({"machine": machine(), **found}).encode(), indent=1))


if __name__ == "__main__":
    main()
