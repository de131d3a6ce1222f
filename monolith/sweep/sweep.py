"""A sweep: which trials are missing, in which order they are done, and what is known of each."""

from __future__ import annotations

import shutil
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from monolith.config.load import job_json
from monolith.errors import MonolithError
from monolith.sweep.crew import Crew
from monolith.sweep.halving import Halving
from monolith.sweep.readings import Readings
from monolith.sweep.report import Row, rows_of
from monolith.sweep.trials import Ledger, Outcome, Trial
from monolith.sweep.worker import Progress, Task
from monolith.training.fitting import is_lower_better, metric_of

TICK_S = 0.5  # between two looks at the progress

Tell = Callable[[str, int, int, str], None]  # what is being done, trials done, trials in all, a note


class Sweep:
    """The trials of one call; ``known`` has the outcomes so far, those of earlier calls included.

    With halving, the first seed of each combination of settings is held to the others; its further seeds are run, to
    their end, only where the first one came to its end.
    """

    def __init__(
        self,
        trials: list[list[Trial]],
        ledger: Ledger,
        readings: Readings,
        *,
        halves: bool,
        keep: int | None = None,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        """``trials``: of each combination of settings, one a seed; ``keep``: how many combinations, the best ones, keep
        their states (None: all). Raises ConfigError where halving lacks optuna.
        """
        self.metric = metric_of(trials[0][0].job)
        self.known: dict[str, Outcome] = {}
        self._lower = is_lower_better(self.metric)
        self._halving = Halving(lower_is_better=self._lower) if halves else None
        self._trials, self._ledger, self._readings, self._say = trials, ledger, readings, say
        self._others = {seeds[0].name: seeds[1:] for seeds in trials}  # first seed -> the others
        self._folders = {trial.name: Path(trial.job.state).parent for seeds in trials for trial in seeds}
        self._keep_states = keep
        self._kept = ledger.read()
        self._queue: deque[Trial] = deque()

    @property
    def count(self) -> int:
        """Trials in all, those included that halving may spare."""
        return sum(map(len, self._trials))

    def told(self) -> str:
        """How far the sweep is, in words."""
        return f"{len(self.known)} of {self.count} trials done"

    def rows(self) -> list[Row]:
        """What is known, best first."""
        names = [[trial.name for trial in seeds] for seeds in self._trials]
        return rows_of(names, self.known, lower_is_better=self._lower)

    def run(self, workers: int, tell: Tell) -> None:
        """Do what is missing. A trial that fails is an outcome, whatever it fails of."""
        for seeds in self._trials:
            for trial in seeds[:1] if self._halving is not None else seeds:
                self._recall_or_queue(trial)
        combinations = f"{len(self._trials):,} combination{'s' * (len(self._trials) > 1)} of settings"
        self._say(f"{combinations}, {self.count:,} trials; {len(self.known):,} were done before")
        self._read()
        with Crew(workers) as crew:
            while self._queue or crew.running:
                self._start(crew)
                for task, told in crew.events(TICK_S):
                    self._hear(crew, task, told)
                tell("sweep", len(self.known), self.count, f"{crew.running} running")

    def _recall_or_queue(self, trial: Trial) -> None:
        """Take over what an earlier call did; one that failed is tried again, and so is one that halving stopped."""
        outcome = self._kept.get(trial.name)
        if outcome is None or not (outcome.status == "done" or (outcome.status == "stopped" and self._halves(trial))):
            self._queue.append(trial)
            return
        self.known[trial.name] = outcome
        if self._halving is not None and self._halves(trial):
            self._halving.recall(outcome)
        self._follow(outcome)

    def _halves(self, trial: Trial | Task) -> bool:
        """Whether this trial may be stopped by comparison with others."""
        name = trial.trial if isinstance(trial, Task) else trial.name
        return self._halving is not None and name in self._others

    def _follow(self, outcome: Outcome) -> None:
        """After a first seed that halving let run to its end, the others."""
        if self._halving is not None and outcome.status == "done":
            for trial in self._others.get(outcome.trial, []):
                self._recall_or_queue(trial)

    def _read(self) -> None:
        """Read the streams of all that waits, before the workers begin."""
        moments: set[str] = set()
        judged: set[Path] = set()
        for trial in list(self._queue):
            try:
                reading = self._readings.of(trial.job)
                moments.add(datetime.fromtimestamp(reading.read_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S"))
                judged |= {reading.validation} if trial.name in self._others else set()
            except MonolithError as error:
                self._queue.remove(trial)
                self._keep(_failed(trial, self.metric, error))
        for moment in sorted(moments):
            self._say(f"samples read {moment} UTC")
        if len(judged) > 1:
            self._say(
                f"a swept setting changes what is read: trials are judged on {len(judged)} different sets of samples"
            )

    def _start(self, crew: Crew) -> None:
        while self._queue and crew.has_room():
            trial = self._queue.popleft()
            try:
                task = self._task(trial)
            except MonolithError as error:  # the samples of a further seed
                self._keep(_failed(trial, self.metric, error))
                continue
            if self._halving is not None and self._halves(trial):
                self._halving.begin(trial.name)
            crew.start(task)

    def _task(self, trial: Trial) -> Task:
        reading = self._readings.of(trial.job)
        return Task(
            trial=trial.name,
            settings=list(trial.settings),
            job=job_json(trial.job),
            train=reading.train,
            validation=reading.validation,
            positions=reading.positions,
            metric=self.metric,
        )

    def _hear(self, crew: Crew, task: Task, told: Progress | Outcome) -> None:
        if isinstance(told, Progress):
            better = True
            if self._halving is not None and self._halves(task):
                better = self._halving.goes_on(task.trial, told.epoch, told.score)
            crew.answer(task, better or told.is_last)
            return
        if self._halving is not None and self._halves(task):
            self._halving.end(told)
        self._keep(told)
        self._follow(told)

    def _keep(self, outcome: Outcome) -> None:
        self._ledger.append(outcome)
        self.known[outcome.trial] = outcome
        self._say(f"trial {len(self.known)} of {self.count}: {_line(outcome)}")
        self._forget()

    def _forget(self) -> None:
        """Remove the states of combinations that enough others are better than; all of their seeds are known."""
        if self._keep_states is not None:
            ended = [row for row in self.rows() if row.is_whole and not row.pending]
            for row in ended[self._keep_states :]:
                for outcome in row.outcomes:
                    shutil.rmtree(self._folders[outcome.trial], ignore_errors=True)


def _failed(trial: Trial, metric: str, error: MonolithError) -> Outcome:
    return Outcome(
        trial=trial.name,
        settings=list(trial.settings),
        seed=trial.job.seed,
        status="failed",
        metric=metric,
        error=f"{type(error).__name__}: {error}",
        ended_ms=time.time_ns() // 1_000_000,
    )


def _line(outcome: Outcome) -> str:
    words = f"{' '.join(outcome.settings)} seed {outcome.seed}".strip()
    if outcome.status == "failed":
        return f"{words}  failed: {outcome.error}"
    after = f"after epoch {outcome.best_epoch} of {len(outcome.epochs)}"
    note = "  stopped" if outcome.status == "stopped" else ""
    return f"{words}  {outcome.metric} {outcome.score:.4f} {after}, {outcome.seconds:.1f} s{note}"
