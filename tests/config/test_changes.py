"""Which settings may change while journalled steps wait to be run again."""

from __future__ import annotations

import json
from typing import Any

import pytest

from monolith.config import changes
from monolith.config.changes import check_changes
from monolith.config.load import job_json
from monolith.errors import ConfigError


@pytest.mark.parametrize(
    ("setting", "key"),
    [
        ("dense_optimizer.on_nonfinite=skip_step", "dense_optimizer.on_nonfinite"),
        ("tables.user.on_nonfinite=clip", "tables[0].on_nonfinite"),
    ],
)
def test_a_run_that_raise_stopped_may_go_on_under_another_policy(parse, setting, key):
    """It decides nothing in the steps that went well; without it the job never gets past the one that did not."""
    assert list(check_changes(job_json(parse()), parse(sets=[setting]), pending=3)) == [key]


@pytest.mark.parametrize("setting", ["input.time_unit=s", "input.check_time_unit=false"])
def test_a_stream_that_was_refused_for_its_unit_may_go_on_in_another(parse, setting):
    """Its steps trained nothing, and without it the job stops at the same place for ever."""
    assert list(check_changes(job_json(parse()), parse(sets=[setting]), pending=3)) == [setting.split("=")[0]]
    with pytest.raises(ConfigError, match="3 journalled steps"):
        check_changes(job_json(parse(sets=[setting])), parse(), pending=3)


def test_the_way_back_is_a_change_of_bits_like_any_other(parse):
    old = job_json(parse(sets=["tables.user.on_nonfinite=clip"]))
    with pytest.raises(ConfigError, match="on_nonfinite was 'clip', now 'raise', but 3 journalled steps"):
        check_changes(old, parse(), pending=3)
    assert list(check_changes(old, parse(), pending=0)) == ["tables[0].on_nonfinite"]


def test_other_settings_that_decide_bits_wait(parse):
    new = parse(sets=["seed=4", "tables.user.on_nonfinite=clip"])
    with pytest.raises(ConfigError, match=r"^seed was 0, now 4, but 1 journalled steps"):
        check_changes(job_json(parse()), new, pending=1)


def test_where_rows_lie_may_change_at_any_time(parse):
    job = parse(sets=["tables.user.memory.kind=file", "tables.user.memory.folder=/data"])
    assert check_changes(job_json(parse()), job, pending=3) == {}
    assert check_changes(job_json(job), parse(), pending=3) == {}


def of_an_older_build(job, *missing: str, **extra: Any) -> bytes:
    """The canonical JSON of ``job`` without the keys at the paths ``missing``, with the top-level keys ``extra``."""
    data = json.loads(job_json(job))
    for path in missing:
        *way, last = path.split(".")
        place = data
        for name in way:
            place = place[int(name)] if name.isdigit() else place[name]
        del place[last]
    return json.dumps({**data, **extra}).encode()


@pytest.mark.parametrize(
    "key", ["tables.0.absent", "tables.0.optimizer.clip_global_norm", "train.threads", "dense_optimizer.on_nonfinite"]
)
def test_a_key_that_the_older_build_did_not_have_is_no_change_where_the_job_has_its_default(parse, key):
    assert check_changes(of_an_older_build(parse(), key), parse(), pending=3) == {}


def test_a_section_that_the_older_build_did_not_have_is_no_change_either(parse):
    assert check_changes(of_an_older_build(parse(), "publish", "dense_optimizer"), parse(), pending=3) == {}


def test_a_key_that_the_older_build_did_not_have_was_the_default_where_the_job_says_otherwise(parse):
    old = of_an_older_build(parse(), "train.threads")
    with pytest.raises(ConfigError, match=r"^train.threads was 1, now 4, but 3 journalled steps"):
        check_changes(old, parse(sets=["train.threads=4"]), pending=3)


def test_a_deciding_key_that_this_build_does_not_have_is_named_while_steps_wait(parse):
    data = json.loads(job_json(parse()))
    data["join"]["shuffle"] = True
    data["tables"][1]["optimizer"]["lookahead"] = 5
    data["store_threads"] = 3  # decides nothing
    names = r"^join.shuffle was True, now None; tables\[1\].optimizer.lookahead was 5, now None, but 2 journalled"
    with pytest.raises(ConfigError, match=names):
        check_changes(json.dumps(data).encode(), parse(), pending=2)
    assert len(check_changes(json.dumps(data).encode(), parse(), pending=0)) == 2


def test_a_retired_key_that_held_its_old_default_is_no_change(parse, monkeypatch):
    monkeypatch.setattr(changes, "RETIRED", {"tables.optimizer.lookahead": 0})
    data = json.loads(job_json(parse()))
    data["tables"][1]["optimizer"]["lookahead"] = 0
    assert check_changes(json.dumps(data).encode(), parse(), pending=2) == {}
    data["tables"][1]["optimizer"]["lookahead"] = 5
    with pytest.raises(ConfigError, match="lookahead was 5"):
        check_changes(json.dumps(data).encode(), parse(), pending=2)


def test_a_value_that_this_build_cannot_have_is_a_change_like_any_other(parse):
    data = json.loads(job_json(parse()))
    data["tables"][1]["optimizer"]["kind"] = "lion"
    del data["train"]["threads"]
    with pytest.raises(ConfigError, match=r"^tables\[1\]\.optimizer\.kind was 'lion', now 'adam', but"):
        check_changes(json.dumps(data).encode(), parse(), pending=2)


def test_job_of_a_build_that_knew_no_step_count_of_adam_is_unchanged(parse):
    """Its tables go on by the count that they were saved with, so steps may wait."""
    job = parse(sets=["tables.user.optimizer.kind=adam"])
    assert check_changes(of_an_older_build(job, "tables.0.optimizer.steps"), job, pending=3) == {}


def test_another_step_count_of_adam_waits(parse):
    job, by_row = (
        parse(sets=["tables.user.optimizer.kind=adam", *more]) for more in ([], ["tables.user.optimizer.steps=row"])
    )
    with pytest.raises(ConfigError, match=r"tables\[0\]\.optimizer\.steps was None, now 'row', but 1 journalled steps"):
        check_changes(job_json(job), by_row, pending=1)
