"""`make chaos`: a trainer, a replica and a producer are tormented for a time, then held to what was promised.

    python -m chaos [--seconds 600] [--seed 1] [--on log|kafka|both] [--faults power_cut,kill_two] [--dir build/chaos]

Faults come at random instants, from a generator with the seed; the diary on the screen and in DIR/diary.txt has every
one with its time. The same seed gives the same events and the same sequence of faults; the instants within the
processes are the machine's. In the end, whatever happened: every good event was trained exactly once, every row in the
store is the trainer's, a replay of the journal gives the same bits, the replica serves them, and nothing is left over.
Exit 1 if not, with everything left in DIR.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import time
from collections.abc import Iterable, Sequence
from itertools import repeat
from pathlib import Path

import chaos_faults
from chaos_faults import Fault
from chaos_world import ChaosError, Servers, World

RATE = 300.0  # events a second


class Diary:
    """What happened, with its time, on the screen and in a file."""

    def __init__(self, path: Path, *, quiet: bool = False) -> None:
        self.path, self.quiet, self.start = path, quiet, time.monotonic()

    def write(self, line: str) -> None:
        """One line."""
        text = f"{time.monotonic() - self.start:8.2f} s  {line}"
        with self.path.open("a") as file:
            file.write(text + "\n")
        if not self.quiet:
            print(text, flush=True)


def torment(world: World, faults: Iterable[Fault], rng: random.Random, until: float, diary: Diary) -> int:
    """Faults until the monotonic clock says ``until``; how many. Between most of them the trainer gets on."""
    count = 0
    for count, fault in enumerate(faults, start=1):
        world.revive()
        if rng.random() < 0.85:
            before = world.snapshots()
            world.wait(lambda b=before: world.snapshots() > b or world.is_written(), "the trainer to get on")
        time.sleep(max(0.0, min(rng.expovariate(1.0), until - time.monotonic())))
        world.check()
        if time.monotonic() >= until:
            return count - 1
        diary.write(f"{count}: {fault(world, rng)}")
    return count


def run(
    folder: Path,
    seed: int,
    seconds: float,
    faults: Iterable[Fault],
    *,
    events: int,
    kafka_home: Path | None = None,
    quiet: bool = False,
) -> int:
    """One run in the new folder ``folder``; how many faults there were. Raises `ChaosError`.

    With ``kafka_home`` on Kafka and Redis, else on logs and LMDB.
    """
    folder.mkdir(parents=True)
    diary = Diary(folder / "diary.txt", quiet=quiet)
    servers = Servers(folder / "servers", kafka_home) if kafka_home else None
    diary.write(f"seed {seed}, {seconds:g} s, on {'Kafka and Redis' if servers else 'logs and LMDB'}")
    world = World(folder, seed, events, RATE, servers)
    failed = True
    try:
        count = torment(world, faults, random.Random(seed), time.monotonic() + seconds, diary)
        for line in world.finish():
            diary.write(line)
        failed = False
        return count
    except ChaosError as error:
        diary.write(f"FAILED: {error}")
        raise
    finally:
        world.close(keep=failed)
        if servers is not None:
            servers.close()


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600.0, help="of torment, in all; the end takes as long again")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--on", choices=["log", "kafka", "both"], default="both", help="both: half of the time each")
    parser.add_argument("--faults", help="names of chaos_faults' functions, with commas between (default: all)")
    parser.add_argument("--dir", type=Path, default=Path("build/chaos"))
    options = parser.parse_args()
    named = [getattr(chaos_faults, name) for name in options.faults.split(",")] if options.faults else chaos_faults.ALL
    places: list[Path | None] = [None] if options.on != "kafka" else []
    if options.on != "log":
        places += _kafka(must=options.on == "kafka")
    good = True
    for kafka_home in places:
        name = f"{int(time.time())}-{'kafka' if kafka_home else 'log'}-seed{options.seed}"
        folder = (options.dir / name).resolve()
        good &= _told(folder, options.seed, options.seconds / len(places), named, kafka_home)
    return 0 if good else 1


def _told(folder: Path, seed: int, seconds: float, faults: Sequence[Fault], kafka_home: Path | None) -> bool:
    rng = random.Random(seed)
    drawn = (rng.choice(faults) for _ in repeat(None))
    try:
        count = run(folder, seed, seconds, drawn, events=int(seconds * RATE), kafka_home=kafka_home)
    except ChaosError:
        print(f"everything is left in {folder}; the diary is {folder / 'diary.txt'}", file=sys.stderr)
        return False
    print(f"{count} faults, and everything is as promised; diary {folder / 'diary.txt'}")
    return True


def _kafka(*, must: bool) -> list[Path | None]:
    """KAFKA_HOME, if a run on Kafka and Redis is possible; else the reason is told, and is an error if it ``must``."""
    home = Path(os.environ.get("KAFKA_HOME", "/nowhere"))
    missing = [name for name in ("java", "redis-server") if shutil.which(name) is None]
    missing += [] if (home / "libs").is_dir() else ["KAFKA_HOME, a folder with Kafka's libs/"]
    if missing:
        text = f"no run on Kafka and Redis: {', '.join(missing)} is not there"
        if must:
            sys.exit(text)
        print(text)
        return []
    return [home]


if __name__ == "__main__":
    sys.exit(main())
