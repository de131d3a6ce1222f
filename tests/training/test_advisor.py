"""What a running job says when it learns less than it could."""

from __future__ import annotations

import numpy as np
import pytest
from batches import batch_of

from monolith.config import FeatureConfig, InputConfig, JobConfig, TableConfig
from monolith.config.admission import MinCount
from monolith.streaming.joiner_state import JoinCounters
from monolith.streaming.progress import Progress
from monolith.tables import Table
from monolith.tables.schema import card_features
from monolith.training.advisor import LEAST_ACTIONS, LEAST_OCCURRENCES, LEAST_SAMPLES, Advisor


def job_of(feature: FeatureConfig, *, table: bool = True) -> JobConfig:
    """A job that reads ``feature``, in its only table or as a dense one beside the table's own."""
    read = TableConfig(name="t", dim=2, features=[feature.name if table else "other"])
    return JobConfig(name="j", input=InputConfig(), tables=[read], features=[feature])


def said_of(job: JobConfig, samples: list, times: int = 1) -> list[str]:
    advisor = Advisor(card_features(job)[-1:])
    for _ in range(times):
        advisor.look(batch_of(job, samples, [0.0] * len(samples)))
    return advisor.review({}, Progress())


KINDS = [
    (FeatureConfig(name="f"), 3),
    (FeatureConfig(name="f", missing="own_row"), 3),
    (FeatureConfig(name="f", type="string", default="?"), "a"),
    (FeatureConfig(name="f", type="string", bag=True), ["a", "b"]),
    (FeatureConfig(name="f", bag=True, missing="own_row"), [1, 2]),
    (FeatureConfig(name="f", type="float", boundaries=[1.0]), 2.0),
]


@pytest.mark.parametrize(("feature", "value"), KINDS)
def test_a_feature_that_no_event_carries_is_named(feature, value):
    (said,) = said_of(job_of(feature), [{}] * 100, LEAST_SAMPLES // 100)
    assert "feature 'f' was missing in each of the first 1,000 samples" in said
    assert said_of(job_of(feature), [{}] * (LEAST_SAMPLES - 1)) == []


@pytest.mark.parametrize(("feature", "value"), KINDS)
def test_a_feature_that_one_event_carries_is_not_named(feature, value):
    assert said_of(job_of(feature), [{}] * (LEAST_SAMPLES - 1) + [{"f": value}]) == []


def test_a_dense_feature_that_no_event_carries_is_named_and_one_that_is_carried_is_not():
    job = job_of(FeatureConfig(name="f", type="float", width=2), table=False)
    assert len(said_of(job, [{"other": 1}] * 1000)) == 1
    assert said_of(job, [{"other": 1}] * 999 + [{"other": 1, "f": [0.0, 1.0]}]) == []


def test_times_of_day_and_features_that_must_be_there_are_never_named():
    assert said_of(job_of(FeatureConfig(name="f", type="hour")), [{}] * 1000) == []
    assert said_of(job_of(FeatureConfig(name="f", missing="dead_letter")), [{"f": 0}] * 1000) == []


def test_a_table_that_admits_nothing_is_named_with_its_rule():
    table = Table(TableConfig(name="t", dim=2, admission=MinCount(count=5)))
    advisor = Advisor([])
    table.observe(np.arange(LEAST_OCCURRENCES - 1), event_time_ms=0)
    assert advisor.review({"t": table}, Progress()) == []
    table.observe(np.arange(1), event_time_ms=0)
    (said,) = advisor.review({"t": table}, Progress())
    assert "table 't' gave none of 1,000 occurrences a row" in said
    assert "MinCount(count=5" in said
    assert advisor.review({"t": table}, Progress()) == [said]


@pytest.mark.parametrize(
    ("counters", "setting"),
    [
        ({"late": LEAST_ACTIONS}, "join.window_s"),
        ({"unmatched_actions": LEAST_ACTIONS}, "join.early_s"),
        ({"ignored_actions": LEAST_ACTIONS}, "join.positive_actions"),
    ],
)
def test_actions_that_make_no_positive_are_told_with_the_setting(counters, setting):
    (said,) = Advisor([]).review({}, Progress(joined=JoinCounters(**counters)))
    assert setting in said
    assert Advisor([]).review({}, Progress(joined=JoinCounters(**counters, positives=1))) == []
    fewer = {name: count - 1 for name, count in counters.items()}
    assert Advisor([]).review({}, Progress(joined=JoinCounters(**fewer))) == []
