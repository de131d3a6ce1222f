"""Trials and what is kept of them: names, the ledger, the samples they share, the table."""

from __future__ import annotations

import msgspec
import pytest

from monolith.errors import ConfigError, CorruptError
from monolith.streaming.between import Between
from monolith.sweep.readings import _reading
from monolith.sweep.report import as_dict, rows_of, table
from monolith.sweep.space import space_of
from monolith.sweep.trials import NAME, Ledger, Outcome, trials_of

JOB = """\
name: shop
input: {samples: "parquet://s?time=t&item=i&features=user,item&label=y"}
tables: [{name: user, dim: 4}, {name: item, dim: 4}]
"""


@pytest.fixture
def trials(tmp_path):
    """The trials of ``--set`` options."""
    path = tmp_path / "job.yaml"
    path.write_text(JOB)

    def make(*options: str, seeds: int = 1, part: Between | None = None):
        space = space_of(options)
        return trials_of(path, space, space.grid(), seeds, tmp_path / "dir", part or Between())

    return make


def outcome(name: str, score: float | None = 0.5, **more) -> Outcome:
    status = "failed" if score is None else "done"
    values = {"settings": [f"a={name[0]}"], "seed": 0, "status": status, "metric": "auc", "score": score}
    return Outcome(trial=name, **values | more)


def test_each_trial_has_its_settings_its_seed_and_a_state_of_its_own(trials):
    made = [trial for seeds in trials("tables.*.dim=2,8", "seed=5", seeds=2) for trial in seeds]
    assert [[table.dim for table in trial.job.tables] for trial in made] == [[2, 2], [2, 2], [8, 8], [8, 8]]
    assert [trial.job.seed for trial in made] == [5, 6, 5, 6]
    assert len({trial.job.state for trial in made}) == 4
    assert all(trial.job.train.threads == 1 for trial in made)


def test_a_trial_is_known_by_what_decides_its_result(trials):
    name = trials()[0][0].name
    assert trials("store=lmdb://x")[0][0].name == name
    assert trials("train.batch_size=7")[0][0].name != name
    assert trials(part=Between(until_ms=5))[0][0].name != name
    assert [seeds[0].name for seeds in trials("train.batch_size=256,7")] == [
        name,
        trials("train.batch_size=7")[0][0].name,
    ]


def test_values_that_mean_the_same_are_one_trial(trials):
    assert len(trials("dense_optimizer.lr=0.01,1e-2,0.010")) == 1


@pytest.mark.parametrize("option", ["state=x", "state=x,y", "seed=1,2", "store=lmdb://a,lmdb://b", "serve.threads=1,2"])
def test_what_a_sweep_sets_itself_cannot_be_swept(trials, option):
    with pytest.raises(ConfigError, match="cannot be swept"):
        trials(option)


def test_trials_of_two_metrics_are_refused(trials):
    with pytest.raises(ConfigError, match="by auc and by logloss: they need one"):
        trials("fit.metric=auc,logloss")


@pytest.mark.parametrize(
    ("option", "same"),
    [
        ("tables.*.dim=8", True),
        ("tables.user.optimizer.lr=1", True),
        ("train.batch_size=3", True),
        ("fit.epochs=3", True),
        ("model.kind=fm", True),
        ("features=[{name: user, bag: true}]", False),
        ("input.samples=log://other", False),
        ("join.window_s=3", False),
        ("train.group_by=item", False),
        ("tables.user.features=[user, friend]", False),
    ],
)
def test_trials_share_samples_unless_a_setting_changes_what_is_read(trials, option, same):
    assert (_reading(trials(option)[0][0].job) == _reading(trials()[0][0].job)) is same


def test_the_ledger_gives_back_the_newest_outcome_of_each_trial(tmp_path):
    with Ledger(tmp_path) as ledger:
        for each in (outcome("a1", None, error="x"), outcome("b1"), outcome("a1", 0.7)):
            ledger.append(each)
    with Ledger(tmp_path) as ledger:
        assert ledger.read() == {"a1": outcome("a1", 0.7), "b1": outcome("b1")}


def test_a_line_that_a_kill_cut_off_is_removed_and_the_next_one_is_whole(tmp_path):
    with Ledger(tmp_path) as ledger:
        ledger.append(outcome("a1"))
    with (tmp_path / NAME).open("ab") as file:
        file.write(b'{"trial": "b')
    with Ledger(tmp_path) as ledger:
        assert list(ledger.read()) == ["a1"]
        ledger.append(outcome("c1"))
        assert list(ledger.read()) == ["a1", "c1"]


def test_a_damaged_line_is_named(tmp_path):
    (tmp_path / NAME).write_bytes(msgspec.json.encode(outcome("a1")) + b"\nnonsense\n")
    with Ledger(tmp_path) as ledger, pytest.raises(CorruptError, match=r"trials.jsonl:2: no outcome"):
        ledger.read()


def test_a_second_sweep_in_the_same_folder_is_refused(tmp_path):
    with Ledger(tmp_path), pytest.raises(ConfigError, match="another sweep works in"), Ledger(tmp_path):
        pass


def rows(*, lower: bool = False):
    known = [
        *(outcome("a1", 0.6), outcome("a2", 0.8, seed=1)),
        *(outcome("b1", 0.72), outcome("b2", None, seed=1, error="E: bad")),
        outcome("c1", 0.9, status="stopped", epochs=[0.9]),
        outcome("d1", None, error="E: worse"),
    ]
    names = [["a1", "a2"], ["b1", "b2"], ["c1", "c2"], ["d1"], ["e1"]]
    return rows_of(names, {each.trial: each for each in known}, lower_is_better=lower)


def test_rows_are_ranked_by_the_mean_over_seeds_and_stopped_ones_come_after():
    assert [row.settings for row in rows()] == [["a=b"], ["a=a"], ["a=c"], ["a=d"]]
    assert [row.settings for row in rows(lower=True)] == [["a=a"], ["a=b"], ["a=c"], ["a=d"]]
    assert rows()[1].mean == pytest.approx(0.7)
    assert rows()[1].sd == pytest.approx(0.1414, abs=1e-4)
    assert rows()[0].sd is None


def test_the_table_shows_means_and_every_failure():
    lines = list(table(rows(), "auc"))
    assert lines[0].split() == ["auc", "sd", "seeds", "epochs", "seconds", "settings"]
    assert lines[2].split()[:3] == ["0.7000", "0.1414", "2"]
    assert "(stopped after epoch 1)" in lines[3]
    assert lines[4:] == ["failed: a=b, seed 1: E: bad", "failed: a=d, seed 0: E: worse"]


def test_the_table_as_json_has_a_row_for_each_combination():
    found = as_dict(rows(), "auc")
    assert [row["status"] for row in found["rows"]] == ["done", "done", "stopped", "failed"]
    assert found["rows"][1]["seeds"] == {"0": 0.6, "1": 0.8}
    assert found["rows"][3]["errors"] == {"0": "E: worse"}
