"""What several folders of tests share: the command line as a user types it, and a model with a scripted history."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import save

from monolith.card import CardFeature, ModelCard, Read
from monolith.config.features import FeatureConfig
from monolith.streaming.source import open_sink
from monolith.tables.delta import Delta, ModelDelta

START_MS = 1_700_000_000_000

Row = tuple[bytes, bytes, int]

GRAPHS: dict[str, dict[str, bytes]] = {}  # what networks of one shape were exported to: shape -> file -> content


class Kit:
    """A folder with jobs, logs and stores, and the means to run commands in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lends_graphs = True  # False for a test of what a run makes in its state folder, and what not
        self._shapes: dict[Path, str] = {}  # of the jobs' networks

    def events(self, count: int, seed: int) -> tuple[list[Row], list[Row]]:
        """Feature and action rows (key, value, event_time_ms): users and items come and go, some are liked."""
        rng = np.random.default_rng(seed)
        features, actions = [], []
        for n in range(count):
            time_ms, crowd = START_MS + n * 2_000, n // 400  # a new crowd each 400 events, so that ids expire
            user, item = int(rng.zipf(1.5) % 50 + crowd * 20), int(rng.zipf(1.3) % 80 + crowd * 30)
            shown = {"user": user, "item": item, "tags": [f"t{user % 7}", f"t{item % 5}"]}
            features.append(_row(n, item, time_ms, type="feature", features=shown))
            if rng.random() < 0.2 + 0.3 * ((user + item) % 2):
                at = time_ms + int(rng.integers(1, 120)) * 1000
                actions.append(_row(n, item, at, type="action", action="like"))
        actions.sort(key=lambda row: row[2])
        return features, actions

    def fill(self, features_url: str, actions_url: str, *, count: int, seed: int = 5) -> None:
        """Write `events` to two streams."""
        for url, rows in zip((features_url, actions_url), self.events(count, seed), strict=True):
            sink = open_sink(url)
            for start in range(0, len(rows), 500):
                sink.append(rows[start : start + 500])
            sink.close()

    def job(self, name: str, **settings: Any) -> Path:
        """A job file with every kind of table rule in it; ``settings`` replace or extend its top-level keys."""
        path = self.folder / f"{name}.yaml"
        whole = _merged(_job(self.folder, name), settings)
        path.write_text(yaml.safe_dump(whole))
        self._shapes[path] = json.dumps([whole.get(key) for key in ("model", "labels", "tables", "features")])
        return path

    def run(self, *args: object, timeout_s: float = 240) -> subprocess.CompletedProcess[str]:
        """Run one command to its end and return what it printed."""
        self._lend_graph(args)
        return subprocess.run(
            _command(*args),
            capture_output=True,
            text=True,
            timeout=timeout_s,
            cwd=self.folder,
            env=_environment(),
            check=False,
        )

    def spawn(self, *args: object) -> subprocess.Popen[bytes]:
        """Start a command in the background; its output is appended to ``out.log``."""
        self._lend_graph(args)
        with (self.folder / "out.log").open("ab") as output:
            return subprocess.Popen(
                _command(*args),
                stdout=output,
                stderr=output,
                cwd=self.folder,
                env=_environment(),
                preexec_fn=_heed_interrupts,
            )

    def keep_graphs(self) -> None:
        """Have later tests start with the graphs that this folder's runs exported, which took them seconds each."""
        for path, shape in self._shapes.items():
            if found := {
                file.name: file.read_bytes() for file in (path.with_suffix("") / "state").glob("graph-*.onnx")
            }:
                GRAPHS.setdefault(shape, found)

    def _lend_graph(self, args: tuple[object, ...]) -> None:
        """A job of a known network that begins finds the graph, as a run does that starts again."""
        self.keep_graphs()
        if not self.lends_graphs:
            return
        for path in [arg for arg in args if "train" in args and isinstance(arg, Path) and arg in self._shapes]:
            state = path.with_suffix("") / "state"
            if (graphs := GRAPHS.get(self._shapes[path])) and not state.exists():
                state.mkdir(mode=0o700, parents=True)
                for name, content in graphs.items():
                    (state / name).write_bytes(content)

    def output(self) -> str:
        """What the spawned commands printed so far."""
        path = self.folder / "out.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def wait(self, condition: Callable[[], Any], what: str, timeout_s: float = 120) -> Any:
        """Poll ``condition`` until it is true; fail with ``what`` after the deadline."""
        deadline = time.monotonic() + timeout_s
        while not (value := condition()):
            if time.monotonic() > deadline:
                pytest.fail(f"waited {timeout_s} s for {what}; output:\n{self.output()[-3000:]}")
            time.sleep(0.02)
        return value


@pytest.fixture
def tell(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Says a line to whoever reads the run's output: printed at its end, from whichever process."""
    return lambda line: record_property("told", line)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for report in terminalreporter.getreports("passed"):
        for line in [value for name, value in report.user_properties if name == "told" and report.when == "call"]:
            terminalreporter.write_line(f"  {line}")


@pytest.fixture
def kit(tmp_path: Path) -> Iterator[Kit]:
    """A folder of one's own and the command line in it."""
    kit = Kit(tmp_path)
    yield kit
    kit.keep_graphs()


@pytest.fixture(scope="session")
def kit_class() -> type[Kit]:
    """For fixtures that outlive one test."""
    return Kit


def _row(n: int, item: int, time_ms: int, **event: Any) -> Row:
    body = {"v": 1, "request_id": f"r{n}", "item_id": str(item), "event_time_ms": time_ms, **event}
    return f"r{n}".encode(), json.dumps(body).encode(), time_ms


def _job(folder: Path, name: str) -> dict[str, Any]:
    return {
        "name": "e2e",
        "seed": 3,
        "state": str(folder / name / "state"),
        "store": f"lmdb://{folder / name / 'store'}",
        "input": {
            "features": f"log://{folder / 'features'}",
            "actions": f"log://{folder / 'actions'}",
            "dead_letters": f"log://{folder / name / 'dead'}",
            "idle_s": 0.2,
            "follow": False,
        },
        "join": {"window_s": 300, "positive_actions": ["like"]},
        "features": [{"name": "tags", "type": "string", "bag": True}],
        "tables": [
            {
                "name": "user",
                "dim": 9,
                "optimizer": {"kind": "adagrad"},
                "expiry": {"kind": "idle", "ttl_s": 1800, "max_age_s": 5400},
                "eviction": {"kind": "lfu", "max_rows": 40, "half_life_s": 900},
            },
            {
                "name": "item",
                "dim": 9,
                "optimizer": {"kind": "adam"},
                "admission": {"kind": "min_count", "count": 2},
                "expiry": {"kind": "idle", "ttl_s": 3600},
                "absent": {"kind": "hashed_tail", "rows": 8, "start_from_tail": True},
            },
            {"name": "tags", "dim": 9, "optimizer": {"kind": "rowwise_adagrad"}, "pooling": "mean"},
        ],
        "model": {"kind": "deepfm", "hidden": [16, 8]},
        "train": {"batch_size": 32, "step_records": 32, "snapshot_every_s": 0.4, "publish_every_s": 0.05},
    }


def _merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    both = {**base, **over}
    for key in base.keys() & over.keys():
        if isinstance(base[key], dict) and isinstance(over[key], dict):
            both[key] = _merged(base[key], over[key])
    return both


def _heed_interrupts() -> None:
    """A shell that runs the tests in its background has children ignore SIGINT, which a terminal does not."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _command(*args: object) -> list[str]:
    return [sys.executable, "-m", "monolith", *map(str, args)]


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1"}


class ScriptedModel:
    """One table ``user``; ``states[s]`` is id -> row as of sequence ``s``, and ``states[0]`` is empty."""

    def __init__(self, lineage: str = "run-1", dim: int = 3, payload: str = "float32") -> None:
        self.lineage = lineage
        self.dim = dim
        self.payload = payload
        self.states: list[dict[int, bytes]] = [{}]

    @property
    def sequence(self) -> int:
        return len(self.states) - 1

    @property
    def card(self) -> ModelCard:
        feature = CardFeature(
            config=FeatureConfig(name="user"),
            seed="user",
            reads=[Read(table="user", output="user", pooling="sum", salted=False)],
        )
        tables = {"user": self.dim}
        return ModelCard(model="demo", lineage=self.lineage, tables=tables, features=[feature], payload=self.payload)

    def write(self, *ids: int, remove: tuple[int, ...] = ()) -> int:
        """The next sequence: fresh values for ``ids``, and ``remove`` gone. Every value tells id and sequence."""
        state = {key: row for key, row in self.states[-1].items() if key not in remove}
        for key in ids:
            value = np.float32(self.sequence + 1) + np.float32(key % 1000) / 1024
            state[key] = np.full(self.dim, value, np.float32).tobytes()
        self.states.append(state)
        return self.sequence

    def delta(self, since: int, until: int | None = None) -> ModelDelta:
        """What leads from ``since`` to ``until`` (the newest); 0 makes an image."""
        until = self.sequence if until is None else until
        before, now = self.states[since], self.states[until]
        written = sorted(key for key in now if since == 0 or before.get(key) != now[key])
        between = set().union(
            *self.states[since:until]
        )  # also what came and went: the receiver may be ahead of `since`
        removed = sorted(between - now.keys()) if since else []
        values = np.frombuffer(b"".join(now[key] for key in written), np.float32).reshape(-1, self.dim)
        table = Delta(since, until, np.array(written, np.int64), values, np.array(removed, np.int64))
        ingested_ms = np.array([until], np.int64)
        return ModelDelta(since, until, 10 * until, 1000 * until, {"user": table}, self.dense(until), ingested_ms)

    def dense(self, sequence: int) -> bytes:
        """The safetensors of a version's dense weights: one weight ``bias`` that is the sequence."""
        return save({"bias": np.array([sequence], np.float32)})

    def since(self, held: int) -> ModelDelta:
        """The ``make_delta`` of a trainer that stands at the newest sequence."""
        return self.delta(held)

    @staticmethod
    def rows_of(table: Delta) -> dict[int, bytes]:
        """A table's delta as id -> row."""
        return {int(key): row.tobytes() for key, row in zip(table.ids, table.values, strict=True)}


@pytest.fixture
def scripted():
    """The class, so that a test can make several runs."""
    return ScriptedModel


@pytest.fixture
def model():
    """A run with three sequences: ids come, change and go."""
    model = ScriptedModel()
    model.write(1, 2, -5, 2**62)
    model.write(2, 3)
    model.write(7, remove=(1,))
    return model
