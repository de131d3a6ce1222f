"""The steps of the demo, each one method, in the order in which they are called."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from monolith.commands.demo_page import Outcome
from monolith.commands.demo_processes import Daemon, Question, Server
from monolith.commands.local_stream import Bar, fresh_folder, local_sets, parts_of, urls_of, write_stream
from monolith.commands.parity import ParityReport, against_snapshot, snapshot_tables
from monolith.commands.progress import Progress
from monolith.config.load import load_job
from monolith.datasets.streams import JOBS, open_stream
from monolith.errors import UnavailableError
from monolith.serving.parity import compare_rows
from monolith.tables.published import published
from monolith.training.status import Status

SHARE = 0.8  # of the stream is backlog; what comes after it arrives live and is judged
PATIENCE_S = 1800.0  # for the daemon to work off what it was given
SETTLE_MS = 1000  # a daemon that did nothing for this long has published all it will


class Demo:
    """One run in one folder. ``children`` ends its processes, however the run ends."""

    def __init__(
        self,
        data: str,
        events: int | None,
        folder: Path,
        *,
        job: Path | None,
        sets: Sequence[str],
        port: int | None,
        children: ExitStack,
    ) -> None:
        self.stream = open_stream(data, events)
        self.folder, self.children, self.port = folder, children, port
        self.job_path, self.sets = job or JOBS[data], [*local_sets(folder), *sets]
        self.job = load_job(self.job_path, self.sets)
        self.cut_ms = self.stream.cut_ms(SHARE)
        self.backlog_rate: float | None = None  # samples a second
        fresh_folder(folder)

    def write_backlog(self) -> None:
        """Everything before the cut, as fast as the log takes it."""
        total = sum(1 for _ in parts_of(self.stream, self.cut_ms)[0])
        write_stream(urls_of(self.job), parts_of(self.stream, self.cut_ms)[0], total, label="backlog")

    def train_backlog(self) -> None:
        """Start the daemon and wait until it has worked the backlog off."""
        state = Path(self.job.state)
        self.daemon = Daemon(self.job_path, self.sets, state, self.folder / "train.log")
        self.children.callback(self.daemon.kill)
        first: list[Status] = []
        with Progress(sys.stderr) as progress:

            def show(status: Status) -> None:
                progress(status)
                if status.samples and not first:
                    first.append(status)

            last = self.daemon.wait_for(lambda s: s.samples > 0 and s.lag == 0, show, PATIENCE_S)
        seconds = (last.updated_ms - first[0].updated_ms) / 1000
        self.backlog_rate = (last.samples - first[0].samples) / seconds if seconds else None
        self.backlog_samples = last.samples

    def serve(self) -> None:
        """Start the server and wait until it can answer."""
        assert self.job.store is not None
        self.server = Server(self.job.store, self.job.name, self.port, self.folder / "serve.log")
        self.children.callback(self.server.kill)
        self.ready_s = self.server.wait_until_ready(60.0)

    def live(self, rate: float) -> None:
        """Write the rest at ``rate`` events a second; wait until it is trained, published and served."""
        self.live_rate = rate
        total = sum(1 for _ in parts_of(self.stream, self.cut_ms)[1])
        events = parts_of(self.stream, self.cut_ms)[1]
        write_stream(urls_of(self.job), events, total, label="live", per_second=rate, note=self._lag)
        with Progress(sys.stderr) as progress:
            self.final = self.daemon.wait_for(_Settled(), progress, PATIENCE_S)
        self.served = self._wait_until_served(self.final.sequence)

    def stop_trainer(self) -> None:
        """SIGTERM: it keeps a snapshot and ends; then every row of the store is compared with it."""
        self.daemon.stop()
        assert self.job.store is not None
        self.parity: ParityReport = against_snapshot(self.job.store, self.job.name, Path(self.job.state))

    def judge(self) -> Outcome:
        """The other three ways on the daemon's own steps, the plot, and the answers to two questions."""
        from monolith.datasets.online import compare, read_steps, split_at
        from monolith.datasets.online_report import plot, with_best

        steps = read_steps(self.job, Path(self.job.state) / "journal", recorded=True)
        split = split_at(steps, self.cut_ms)
        with Bar() as bar:
            comparison = compare(self.job, split, bar)
        if self.stream.generated:
            comparison = with_best(comparison, self.stream.probabilities(split.test_keys))
        kept = snapshot_tables(Path(self.job.state))
        online = published(comparison.online.tables)
        replayed = {name: compare_rows(kept[name].rows(), table.rows()) for name, table in online.items()}
        picture = self.folder / "online.png"
        plot(comparison, picture, f"{self.stream.name}, {self.job.model.kind}: AUC over the last {1 - SHARE:.0%}")
        return Outcome(
            stream=self.stream.name,
            origin=self.stream.origin,
            impressions=self.stream.count,
            job=self.job,
            backlog_samples=self.backlog_samples,
            backlog_rate=self.backlog_rate,
            live_rate=self.live_rate,
            status=self.final,
            freshness=self.served["freshness"],
            ready_s=self.ready_s,
            parity=self.parity,
            replayed=replayed,
            comparison=comparison,
            picture=picture,
            answers=[(question.line(), question.ask()) for question in self._questions()],
            server_port=self.server.port,
        )

    def _questions(self) -> list[Question]:
        features = self.stream.last().feature.features
        sample = {name: features[name] for name in self.job.feature_names()}
        return [
            Question(f"{self.server.url}/lookup", {"name": "user", "values": [features["user"]]}),
            Question(f"{self.server.url}/predict", {"samples": [sample]}),
        ]

    def _lag(self) -> str:
        status = self.daemon.status()
        return "" if status is None else f"lag {status.lag:,}  {status.samples_per_s:,.0f} samples/s"

    def _wait_until_served(self, sequence: int) -> Any:
        deadline = time.monotonic() + 30.0
        while (version := self.server.get("/version"))["sequence"] < sequence:
            if time.monotonic() > deadline:
                raise UnavailableError(
                    f"the replica stays at sequence {version['sequence']}, the trainer is at {sequence}"
                )
            time.sleep(0.05)
        return version


class _Settled:
    """True of a status once the daemon has had nothing to do for a while and the store holds all it published."""

    def __init__(self) -> None:
        self._since: Status | None = None

    def __call__(self, status: Status) -> bool:
        busy = status.lag != 0 or status.stored_sequence != status.sequence
        if busy or self._since is None or self._since.step != status.step:
            self._since = None if busy else status
            return False
        return status.updated_ms - self._since.updated_ms >= SETTLE_MS
