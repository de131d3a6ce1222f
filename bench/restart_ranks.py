"""A job on several processes of which one is killed: from SIGKILL to the first new step, with all tables full of rows.

The part ``job`` of `bench/restart.py` with ``--workers``: the job of `restart_job`, filled there. Ranks first keep a
snapshot in parts. Then rank 1 and rank 0 are killed in turn, and torchrun starts all ranks again: in one run all go
back to the newest snapshot, in another the others keep their newer rows (``sharding.partial_recovery``). Seconds are
from the kill.
"""

from __future__ import annotations

import os
import re
import signal
import statistics
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # not there under PYTHONSAFEPATH

import yaml
from rank_pids import pids_of
from restart_job import TRAINED_BEFORE_KILL, WAIT_S, Writer, restart_job

from monolith.training.snapshot import RANKS, Snapshots
from monolith.training.status import Status, read_status

WAYS = {"exact": "all ranks go back to the newest snapshot", "partial": "the others keep their newer rows"}
MILESTONES = {
    "left": "the other rank has written its rows",
    "trains again": "the first step is trained",
    "past the kill": "the step at which the rank was killed",
}


def measured_ranks(folder: Path, rows: int, repeats: int, workers: int) -> dict[str, dict[str, list[float]]]:
    """Seconds of each of the `MILESTONES`, by way."""
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(restart_job(folder)))
    with closing(Writer(folder)):
        filling = [sys.executable, str(Path(__file__).with_name("restart_job.py")), str(path), str(rows)]
        print(f"filled: {subprocess.run(filling, check=True, stdout=subprocess.PIPE).stdout.decode()}", flush=True)
        return {way: _killed(path, folder, repeats, workers, way) for way in WAYS}


def _killed(path: Path, folder: Path, repeats: int, workers: int, way: str) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in MILESTONES}
    ranks = _Ranks(path, folder, workers, partial=way == "partial")
    try:
        ranks.wait_for(lambda now: _is_in_parts(folder, now.snapshot_step))
        for number in range(repeats):
            enough = ranks.now().samples + TRAINED_BEFORE_KILL
            ranks.wait_for(lambda now, enough=enough: now.samples >= enough)
            for name, spent in ranks.kill(1 - number % 2).items():
                seconds[name].append(spent)
                print(f"{way}: rank {1 - number % 2} killed, {name} after {spent:.1f} s", flush=True)
    finally:
        ranks.end()
    return seconds


def _is_in_parts(folder: Path, step: int) -> bool:
    return (Snapshots(folder / "state" / "snapshots").path(step) / RANKS).exists()


class _Ranks:
    """``monolith train --workers``, watched through status file and log."""

    def __init__(self, path: Path, folder: Path, workers: int, *, partial: bool) -> None:
        self._path, self._state, self._log = path, folder / "state", folder / f"ranks-{partial}.log"
        words = ["train", str(path), "--quiet", "--workers", str(workers), "--max-restarts", "1000"]
        words += ["--set", f"sharding.partial_recovery={str(partial).lower()}"]
        with self._log.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "monolith", *words], stdout=output, stderr=subprocess.STDOUT
            )
        self._pid = 0  # rank 0's before
        self._pid = self.wait_for(lambda now: now.pid in pids_of(self._path).values()).pid - 1

    def now(self) -> Status:
        """What the newest rank 0 said last."""
        return self.wait_for(lambda _: True)

    def wait_for(self, condition: Any) -> Status:
        """The first status of the newest rank 0 that meets ``condition``."""
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            status = read_status(self._state / "status.json")
            if status is not None and status.pid != self._pid and condition(status):
                return status
            if self._process.poll() is not None:
                break
            time.sleep(0.01)
        raise TimeoutError(f"the ranks did not come to where they should; see {self._log}")

    def kill(self, rank: int) -> dict[str, float]:
        """Kill one; seconds to each of the milestones."""
        before, told = self.now(), len(self._said())
        self._pid = before.pid
        os.kill(pids_of(self._path)[rank], signal.SIGKILL)
        start, wall, seconds = time.perf_counter(), time.time(), {}
        restored: list[str] = []
        while not restored:
            time.sleep(0.01)
            said = self._said()[told:]
            restored = re.findall(r" restored step=(\d+)", said)
        self.wait_for(lambda now: now.step > self._from(told))
        seconds["trains again"] = time.perf_counter() - start
        self.wait_for(lambda now: now.step >= before.step)
        seconds["past the kill"] = time.perf_counter() - start
        for left in re.findall(r"^(\S+ \S+) .* left its rows", self._said()[told:], re.MULTILINE):
            at = time.mktime(time.strptime(left[:19], "%Y-%m-%d %H:%M:%S")) + int(left[20:23]) / 1000
            seconds["left"] = max(seconds.get("left", 0.0), at - wall)
        return seconds

    def _from(self, told: int) -> int:
        """The step from which the ranks go on."""
        said = self._said()[told:]
        steps = re.findall(r" restored step=(\d+)", said)[-1:] + re.findall(r"recovery: after step (\d+)", said)
        return int(steps[-1])

    def _said(self) -> str:
        return self._log.read_text(errors="replace")

    def end(self) -> None:
        """SIGTERM, and all are gone."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(WAIT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()


def rank_lines(seconds: dict[str, dict[str, list[float]]], workers: int) -> list[str]:
    """The table of the milestones."""
    lines = [f"\n## The job on {workers} processes, of which one is killed\n"]
    lines += ["| from SIGKILL until | way | seconds: median | from | to |", "| --- | --- | --: | --: | --: |"]
    for way, of_way in seconds.items():
        for name, spent in of_way.items():
            if spent:
                figures = f"{statistics.median(spent):.1f} | {min(spent):.1f} | {max(spent):.1f}"
                lines.append(f"| {MILESTONES[name]} | {WAYS[way]} | {figures} |")
    return lines
