"""What a lost rank costs where the others keep their newer rows: updates lost, and AUC on what comes next.

    python bench/partial_recovery.py [--impressions N] [--kills K] [--workers W] [--folder PATH] [--json PATH]

The generated click log (`monolith.datasets.synthetic`), by its own job: ranks train on the first six tenths and keep a
snapshot; they go on with the next three, and one of them is killed on the way. From there the run goes on twice, to the
end of the three: all ranks back at the snapshot, which loses nothing, and with ``sharding.partial_recovery``. Both
models are judged on the last tenth, and so is the snapshot, to say what those three tenths are worth.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).parent))  # not there under PYTHONSAFEPATH

from machine import machine
from rank_pids import pids_of

from monolith.datasets.impressions import timeline, write_events
from monolith.datasets.streams import JOBS
from monolith.datasets.synthetic import SyntheticStream
from monolith.streaming.journal import Journal
from monolith.streaming.source import open_sink
from monolith.training.snapshot import Snapshots

POLL_S, WAIT_S = 0.02, 300.0
_LOST = re.compile(
    r"after step (\d+) the run .* back to step (\d+)\); samples read again=(\d+), updates lost=(\d+), of rows=(\d+)"
)


@dataclass
class Kill:
    """What one kill cost."""

    rank: int
    samples: int  # trained since the snapshot
    updates: int  # lost: ids of batches
    rows: int  # that had one
    auc_exact: float
    auc_partial: float


def main() -> None:
    """Measure and print."""
    options = parse()
    folder = Path(tempfile.mkdtemp(prefix="partial-", dir=options.folder))
    try:
        bench = _Bench(folder, options.workers, options.impressions)
        before = bench.auc(bench.begun)
        kills = []
        for number in range(options.kills):
            kills.append(bench.kill(number, share=(number + 1) / (options.kills + 1)))
            print(_line(kills[-1]), flush=True)
    finally:
        shutil.rmtree(folder)
    print(f"the snapshot alone: AUC {before:.4f}; load {machine()['load_1min']}")
    if options.json:
        found = {"machine": machine(), "auc_of_snapshot": before, "kills": [asdict(kill) for kill in kills]}
        options.json.write_text(json.dumps(found, indent=1) + "\n")


def _line(kill: Kill) -> str:
    lost = f"rank {kill.rank} killed after {kill.samples:,} samples: {kill.updates:,} updates of {kill.rows:,} rows"
    aucs = f"{kill.auc_exact:.4f} exact, {kill.auc_partial:.4f} partial"
    return f"{lost} lost; AUC {aucs}, {kill.auc_partial - kill.auc_exact:+.4f}"


class _Bench:
    def __init__(self, folder: Path, workers: int, impressions: int) -> None:
        self._folder, self._workers = folder, workers
        stream = SyntheticStream().impressions(impressions)
        self._write("begun", islice(stream, impressions * 6 // 10))
        self.begun = self._job("begun", "begun")
        self._train(self.begun)
        for kind in ("features", "actions"):
            shutil.copytree(folder / "begun" / kind, folder / "more" / kind)
        self._write("more", islice(stream, impressions * 3 // 10))
        self._write("next", stream)

    def _write(self, name: str, impressions: Iterator[object]) -> None:
        (self._folder / name).mkdir(exist_ok=True)
        sinks = [open_sink(f"log://{self._folder / name / kind}") for kind in ("features", "actions")]
        write_events(timeline(impressions), *sinks)  # type: ignore[arg-type]
        for sink in sinks:
            sink.close()

    def _job(self, name: str, streams: str) -> Path:
        job = yaml.safe_load(JOBS["synthetic"].read_text())
        where = {kind: f"log://{self._folder / streams / kind}" for kind in ("features", "actions")}
        job["input"] |= where | {"dead_letters": None, "follow": False}
        job["train"] |= {"batch_size": 64, "snapshot_every_s": 1e9, "keep_journal": True, "keep_snapshots": 4}
        job |= {"state": str(self._folder / name / "state"), "store": None}
        path = self._folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(job))
        return path

    def _command(self, path: Path, *words: str) -> list[str]:
        ranks = ["--quiet", "--workers", str(self._workers), *words]
        return [sys.executable, "-m", "monolith", "train", str(path), *ranks]

    def _train(self, path: Path, *words: str) -> str:
        return subprocess.run(self._command(path, *words), check=True, stderr=subprocess.PIPE, text=True).stderr

    def auc(self, path: Path) -> float:
        """Of the newest snapshot, on the last tenth."""
        on = [f"--{kind}=log://{self._folder / 'next' / kind}" for kind in ("features", "actions")]
        command = [sys.executable, "-m", "monolith", "evaluate", str(path), *on, "--json"]
        found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        return float(re.search(r'"auc": ([0-9.]+)', found)[1])  # type: ignore[index]

    def kill(self, number: int, share: float) -> Kill:
        """Kill a rank once ``share`` of the three tenths is read; what both ways make of it."""
        rank = number % self._workers
        shutil.copytree(self._folder / "begun" / "state", self._folder / "killed" / "state")
        path = self._job("killed", "more")
        self._run_to(path, rank, share)
        aucs = {}
        for way in ("false", "true"):
            shutil.copytree(self._folder / "killed" / "state", self._folder / way / "state")
            said = self._train(self._job(way, "more"), "--set", f"sharding.partial_recovery={way}")
            aucs[way] = self.auc(self._job(way, "more"))
            shutil.rmtree(self._folder / way)
        shutil.rmtree(self._folder / "killed")
        found = _LOST.search(said)
        if found is None:
            raise AssertionError(f"the ranks did not go on with their rows: {said[-3000:]}")
        samples, updates, rows = (int(number) for number in found.groups()[2:])
        return Kill(rank, samples, updates, rows, aucs["false"], aucs["true"])

    def _run_to(self, path: Path, rank: int, share: float) -> None:
        state = self._folder / "killed" / "state"
        begun = Snapshots(state / "snapshots").steps()[-1]
        due = begun + round(begun / 2 * share)  # six tenths made the steps so far
        words = ["--max-restarts", "0", "--set", "sharding.partial_recovery=true"]
        with (self._folder / "killed.log").open("wb") as output:
            process = subprocess.Popen(self._command(path, *words), stderr=output)
        deadline = time.monotonic() + WAIT_S
        while Journal(state / "journal", read_only=True).last_step < due and time.monotonic() < deadline:
            time.sleep(POLL_S)
        os.kill(pids_of(path)[rank], signal.SIGKILL)
        process.wait(WAIT_S)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--impressions", type=int, default=100_000)
    parser.add_argument("--kills", type=int, default=4)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where everything is written; default: the system's")
    parser.add_argument("--json", type=Path, help="write the figures to this file as well")
    return parser.parse_args()


if __name__ == "__main__":
    main()
