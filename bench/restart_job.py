"""A whole job killed and started again: from `monolith train` to its first step, with all tables full of rows.

The part ``job`` of `bench/restart.py`. A DeepFM over four tables (dim 17: 16 and the linear weight; row-wise
Adagrad, rows that expire) follows two logs and publishes to LMDB. The rows are put in place through a trainer in a
process of its own, which publishes their image and keeps a snapshot; then the real command runs while events come at
400 a second, is killed by SIGKILL in the middle of its steps, and is started again, several times. Seconds from the
start of the process.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # not there under PYTHONSAFEPATH

import numpy as np
import yaml

from monolith.commands.demo_processes import Daemon
from monolith.events import ActionEvent, FeatureEvent
from monolith.streaming.codec import encode
from monolith.streaming.source import open_sink

TABLES = ("user", "item", "query", "place")
AT_ONCE = 100_000
EVENTS_A_SECOND = 400
TRAINED_BEFORE_KILL = 800  # samples
WAIT_S = 300.0


MILESTONES = {
    "image published": "(once) the rows' image is published to LMDB",
    "snapshot kept": "(once) their snapshot is kept",
    "restored": "start to: the snapshot is restored",
    "store taken over": "start to: the store is taken over, and holds what it should",
    "trains again": "start to: the first step is trained",
    "past the kill": "start to: the step at which the process was killed",
}


def measured_job(folder: Path, rows: int, repeats: int) -> dict[str, list[float]]:
    """Seconds of each of the `MILESTONES`."""
    path, state = folder / "job.yaml", folder / "state"
    path.write_text(yaml.safe_dump(restart_job(folder)))
    with closing(Writer(folder)):
        filling = [sys.executable, __file__, str(path), str(rows)]
        filled = json.loads(subprocess.run(filling, check=True, stdout=subprocess.PIPE).stdout)
        seconds: dict[str, list[float]] = {name: [spent] for name, spent in filled.items()}
        daemon = Daemon(path, [], state, folder / "train.log")
        try:
            reached = _trained(daemon, TRAINED_BEFORE_KILL)
            for _ in range(repeats):
                daemon.kill()
                started, started_wall = time.perf_counter(), time.time()
                daemon = Daemon(path, [], state, folder / "train.log")
                again, step = _first_step(daemon)
                seconds.setdefault("trains again", []).append(again - started)
                while step < reached:
                    step = _now(daemon).step
                seconds.setdefault("past the kill", []).append(time.perf_counter() - started)
                for name, at in _milestones(daemon.log).items():
                    seconds.setdefault(name, []).append(at - started_wall)
                reached = _trained(daemon, TRAINED_BEFORE_KILL)
        finally:
            daemon.kill()
    return seconds


def restart_job(folder: Path) -> dict[str, Any]:
    """The job file."""
    rows = {"dim": 17, "optimizer": {"kind": "rowwise_adagrad"}, "expiry": {"kind": "idle", "ttl_s": 7 * 86400}}
    return {
        "name": "restart",
        "state": str(folder / "state"),
        "store": f"lmdb://{folder / 'store'}",
        "input": {name: f"log://{folder / name}" for name in ("features", "actions")},
        "join": {"positive_actions": ["click"], "window_s": 2},
        "tables": [{"name": name, **rows} for name in TABLES],
        "model": {"kind": "deepfm", "hidden": [64]},
    }


class Writer(threading.Thread):
    """Appends events stamped with the present, until it is closed."""

    def __init__(self, folder: Path) -> None:
        super().__init__(daemon=True)
        self._urls = [f"log://{folder / name}?retain_bytes=100000000" for name in ("features", "actions")]
        self._done = threading.Event()
        self._rng = np.random.default_rng(2)
        self.start()

    def run(self) -> None:
        """Write until it is closed."""
        with closing(open_sink(self._urls[0])) as features, closing(open_sink(self._urls[1])) as actions:
            number = 0
            while not self._done.wait(0.05):
                now_ms = time.time_ns() // 1_000_000
                shown = [self._shown(number + i, now_ms) for i in range(EVENTS_A_SECOND // 20)]
                acted = [ActionEvent(shown[0].request_id, shown[0].item_id, "click", now_ms)]
                for sink, events in ((features, shown), (actions, acted)):
                    sink.append([(e.request_id.encode(), encode(e), e.event_time_ms) for e in events])
                number += len(shown)

    def _shown(self, number: int, now_ms: int) -> FeatureEvent:
        ids = self._rng.integers(0, 2**62, len(TABLES))
        return FeatureEvent(f"r{number}", str(number), now_ms, dict(zip(TABLES, ids.tolist(), strict=True)))

    def close(self) -> None:
        """Write no more."""
        self._done.set()
        self.join()


def _now(daemon: Daemon) -> Any:
    """What the daemon's own process last said of itself, as soon as it said anything."""
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        status = daemon.status()
        if status is not None and status.pid == daemon.process.pid:
            return status
        time.sleep(0.01)
    raise TimeoutError(f"the trainer said nothing in {WAIT_S:.0f} s; see {daemon.log}")


def _trained(daemon: Daemon, samples: int) -> int:
    """The step at which the daemon has trained so many samples more."""
    enough = _now(daemon).samples + samples
    deadline = time.monotonic() + WAIT_S
    while (status := _now(daemon)).samples < enough and time.monotonic() < deadline:
        time.sleep(0.05)
    return int(status.step)


def _first_step(daemon: Daemon) -> tuple[float, int]:
    """When the daemon said that it had made a step of its own, and which."""
    restored = None
    while True:
        status = _now(daemon)
        found = re.search(r"restored step=(\d+)", daemon.log.read_text(errors="replace"))
        restored = int(found[1]) if found else 0
        if status.step > restored:
            return time.perf_counter(), status.step
        time.sleep(0.01)


def _milestones(log: Path) -> dict[str, float]:
    """Wall time of what the daemon logged on its way."""
    found = {}
    for line in log.read_text(errors="replace").splitlines():
        for name, words in (("restored", " restored step="), ("store taken over", " took over store=")):
            if words in line and name not in found:
                found[name] = datetime.strptime(line[:23], "%Y-%m-%d %H:%M:%S,%f").timestamp()
    return found


def _fill(path: Path, rows: int) -> None:
    """Put ``rows`` rows in all into the job's tables, have them published, and keep a snapshot."""
    from monolith.commands.assembly import open_trainer
    from monolith.config.load import load_job

    rng = np.random.default_rng(1)
    with open_trainer(load_job(path, [])) as trainer:
        for table in trainer.learner.tables.values():
            while (left := rows // len(TABLES) - len(table)) > 0:
                table.observe(rng.integers(0, 2**62, min(left, AT_ONCE)), event_time_ms=time.time_ns() // 1_000_000)
        while trainer.sequence == 0:
            if (step := trainer.steps.next(timeout_s=0.1)) is not None:
                start = time.perf_counter()
                trainer.advance(step)
        published = time.perf_counter()
        trainer.snapshot()
    print(json.dumps({"image published": published - start, "snapshot kept": time.perf_counter() - published}))


if __name__ == "__main__":
    _fill(Path(sys.argv[1]), int(sys.argv[2]))
