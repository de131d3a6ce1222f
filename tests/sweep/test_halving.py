"""Which trials successive halving stops, and that a later call decides as if it had seen the earlier ones."""

from __future__ import annotations

import pytest

from monolith.sweep.halving import Halving
from monolith.sweep.trials import Outcome

pytest.importorskip("optuna")


def follow(halving: Halving, trial: str, scores: list[float]) -> Outcome:
    """Run a trial with these scores; where it is stopped, it is so."""
    halving.begin(trial)
    seen: list[float] = []
    status = "done"
    for epoch, score in enumerate(scores, start=1):
        seen.append(score)
        if not halving.goes_on(trial, epoch, score):
            status = "stopped"
            break
    outcome = Outcome(trial=trial, settings=[], seed=0, status=status, metric="auc", score=max(seen), epochs=seen)
    halving.end(outcome)
    return outcome


GOOD, FAIR, POOR = [0.7, 0.8, 0.8, 0.9], [0.6, 0.7, 0.7, 0.8], [0.5, 0.6, 0.6, 0.7]


def test_the_first_trial_goes_on_and_a_worse_one_is_stopped_at_the_first_epoch():
    halving = Halving(lower_is_better=False)
    assert follow(halving, "a", FAIR).status == "done"
    assert follow(halving, "b", POOR).epochs == [0.5]
    assert follow(halving, "c", GOOD).status == "done"


def test_a_trial_that_falls_behind_is_stopped_after_two_or_four_epochs_only():
    halving = Halving(lower_is_better=False)
    follow(halving, "a", GOOD)
    assert len(follow(halving, "b", [0.9, 0.1, 0.1, 0.1]).epochs) == 2
    assert len(follow(halving, "c", [0.95, 0.95, 0.1, 0.1]).epochs) == 4


def test_of_an_error_less_is_better():
    halving = Halving(lower_is_better=True)
    follow(halving, "a", FAIR)
    assert follow(halving, "b", POOR).status == "done"
    assert follow(halving, "c", GOOD).status == "stopped"


def test_trials_of_an_earlier_call_count_as_if_they_had_just_run():
    first = Halving(lower_is_better=False)
    ended = [follow(first, name, scores) for name, scores in (("a", FAIR), ("b", POOR), ("c", GOOD))]
    again = Halving(lower_is_better=False)
    for outcome in ended:
        again.recall(outcome)
    middle = [0.65, 0.85, 0.85, 0.85]
    assert follow(again, "d", middle).epochs == follow(first, "d", middle).epochs


def test_a_failed_trial_counts_for_nothing():
    halving = Halving(lower_is_better=False)
    halving.begin("a")
    halving.end(Outcome(trial="a", settings=[], seed=0, status="failed", metric="auc", error="x"))
    assert follow(halving, "b", POOR).status == "done"
