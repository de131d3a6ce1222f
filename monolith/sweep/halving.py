"""Successive halving by epochs: after 1, 2, 4, 8, ... epochs only the better half goes on (optuna's pruner).

Asynchronous, as K. Jamieson and A. Talwalkar's rule is for several workers: a trial is held to those that came as far
before it, so which trials are stopped depends on the order in which they end.
"""

from __future__ import annotations

from typing import Any

from monolith.sweep.space import load_optuna
from monolith.sweep.trials import Outcome

FACTOR = 2


class Halving:
    """Says of each trial after each epoch whether it goes on. Raises ConfigError where optuna is missing."""

    def __init__(self, *, lower_is_better: bool) -> None:
        self._optuna = load_optuna("--halving")
        self._study = self._optuna.create_study(
            direction="minimize" if lower_is_better else "maximize",
            pruner=self._optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=FACTOR),
        )
        self._trials: dict[str, Any] = {}

    def begin(self, trial: str) -> None:
        """A trial starts."""
        self._trials[trial] = self._study.ask()

    def goes_on(self, trial: str, epoch: int, score: float) -> bool:
        """Whether ``trial`` goes on after ``epoch`` with ``score``."""
        self._trials[trial].report(score, epoch)
        return not self._trials[trial].should_prune()

    def end(self, outcome: Outcome) -> None:
        """A trial ended."""
        states = self._optuna.trial.TrialState
        state = {"done": states.COMPLETE, "stopped": states.PRUNED, "failed": states.FAIL}[outcome.status]
        trial = self._trials.pop(outcome.trial)
        self._study.tell(trial, outcome.score if outcome.status == "done" else None, state=state)

    def recall(self, outcome: Outcome) -> None:
        """Take in a trial of an earlier call."""
        self.begin(outcome.trial)
        for epoch, score in enumerate(outcome.epochs, start=1):
            self.goes_on(outcome.trial, epoch, score)
        self.end(outcome)
