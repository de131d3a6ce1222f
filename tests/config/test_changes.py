"""Which settings may change while journalled steps wait to be run again."""

from __future__ import annotations

import pytest

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
