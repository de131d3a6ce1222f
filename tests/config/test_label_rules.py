"""Which tasks a job may have, with which model, streams and columns."""

from __future__ import annotations

import msgspec
import pytest

from monolith.config import TaskConfig, job_json, parse_job
from monolith.config.changes import changes, check_lasting
from monolith.config.deciding import settings_in, settings_of
from monolith.errors import ConfigError

JOB = """\
name: shop
input: {samples: "log://samples"}
tables:
  - {name: user, dim: 5}
features:
  - {name: price_seen, type: float}
labels:
  - {name: click}
  - {name: price, loss: squared, weight: 0.25}
"""


def refused(old: str, new: str) -> str:
    assert old in JOB
    with pytest.raises(ConfigError) as caught:
        parse_job(JOB.replace(old, new, 1), "job.yaml")
    return str(caught.value)


def test_a_job_without_labels_has_one_binary_task():
    job = parse_job(JOB[: JOB.index("labels:")], "job.yaml")
    assert job.labels == [TaskConfig(name="label", loss="log", weight=1.0)]


def test_tasks_are_read_in_order():
    assert [(task.name, task.loss, task.weight) for task in parse_job(JOB, "job.yaml").labels] == [
        ("click", "log", 1.0),
        ("price", "squared", 0.25),
    ]


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("name: price,", "name: click,", "labels[1].name: the task 'click' is there twice"),
        ("{name: click}", '{name: "a:b"}', "labels[0].name: 'a:b' is no name"),
        (JOB[JOB.index("labels:") :], "labels: []", "labels: the list is empty"),
        ("weight: 0.25", "weight: 0", "labels[1].weight: expected a number > 0"),
        ("squared", "hinge", "labels[1].loss"),
        (
            'samples: "log://samples"',
            'features: "log://f", actions: "log://a"',
            "labels[1].name: nothing makes the label of 'price': features are joined with actions",
        ),
        ("{name: click}", "{name: click, actions: [click]}", "labels[0].actions: input.samples brings the labels"),
        ("weight: 0.25", "value: pay", "labels[1].value: input.samples brings the labels"),
        ("labels:", "model: {kind: fm}\nlabels:", "model.kind: the model fm has one output, there are 2 tasks"),
        (
            '"log://samples"',
            '"parquet://x?time=t&item=i&label=rating"',
            "input.samples: label=rating names one column, the job has the tasks click, price",
        ),
        (
            '"log://samples"',
            '"parquet://x?time=t&item=i&label=clik:clicked,price"',
            "input.samples: label= has a column for the task 'clik' (did you mean 'click'?); tasks: click, price",
        ),
    ],
)
def test_rule_names_the_place_and_what_is_allowed(old, new, says):
    assert says in refused(old, new)


JOINED = """\
name: shop
input: {features: "log://features", actions: "log://actions"}
join: {positive_actions: []}
tables:
  - {name: user, dim: 5}
labels:
  - {name: click, actions: [click, open]}
  - {name: seconds, loss: squared, value: watch, default: 0}
"""


def test_tasks_of_joined_streams_say_which_actions_make_them():
    click, seconds = parse_job(JOINED, "job.yaml").labels
    assert (click.actions, click.value, click.default) == (["click", "open"], None, None)
    assert (seconds.actions, seconds.value, seconds.default) == ([], "watch", 0)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("actions: [click, open]", "weight: 2", "labels[0].name: nothing makes the label of 'click'"),
        ("value: watch,", "value: watch, actions: [watch],", "labels[1].value: 'seconds' has both actions"),
        ("value: watch,", "actions: [watch],", "labels[1].default: 'seconds' has no value that could be missing"),
        ("loss: squared, value: watch, default: 0", "value: watch, default: 2", "labels[1].default: saw 2; a label of"),
        ("default: 0", "default: 2000000", "labels[1].default: saw 2e+06; allowed: -1,000,000 to 1,000,000"),
        ("[click, open]", '[click, ""]', "labels[0].actions: 'click' names an action without a name"),
        ("positive_actions: []", "positive_actions: [click]", "join.positive_actions: labels say which actions"),
        ("positive_actions: []", "negative_rate: 1.0e-7", "join.negative_rate: saw 1e-07: a negative that is kept"),
        (
            JOINED[JOINED.index("  - {name: click") :],
            "".join(f"  - {{name: t{i}, actions: [a]}}\n" for i in range(17)),
            "labels: 17 tasks, but features that are joined with actions have at most 16",
        ),
    ],
)
def test_rule_on_tasks_of_joined_streams_names_the_place_and_what_is_allowed(old, new, says):
    assert old in JOINED
    with pytest.raises(ConfigError) as caught:
        parse_job(JOINED.replace(old, new, 1), "job.yaml")
    assert says in str(caught.value)


def test_what_a_task_takes_the_value_of_lasts_and_the_actions_of_one_may_change():
    job = parse_job(JOINED, "job.yaml")
    other = parse_job(JOINED.replace("watch", "view"), "job.yaml")
    with pytest.raises(ConfigError, match="the state folder is of another model"):
        check_lasting(settings_of(job), settings_of(other))
    fewer = parse_job(JOINED.replace("[click, open]", "[click]"), "job.yaml")
    assert list(changes(settings_of(job), settings_of(fewer))) == ["labels[0].actions[1]"]
    check_lasting(settings_of(job), settings_of(fewer))


def test_a_table_of_weights_may_stand_beside_factors_and_no_other_width_may():
    wide = "  - {name: wide, dim: 1, features: [user]}\n  - {name: movie, dim: 5}\nfeatures:"
    job = parse_job(JOB.replace("features:", wide, 1), "job.yaml")
    assert [table.dim for table in job.tables] == [5, 1, 5]
    text = refused("features:", wide.replace("movie, dim: 5", "movie, dim: 4"))
    assert "tables[2].dim: the model deepfm takes tables of one dim, besides those of dim 1; saw 4" in text


def test_dlrm_needs_a_dense_feature_and_only_dlrm_has_a_bottom():
    dense = "features:\n  - {name: price_seen, type: float}\n"
    assert "there is none; give one" in refused(dense, "model: {kind: dlrm}\n")
    assert "model.bottom: the model deepfm does not read it; leave it out, or take dlrm" in refused(
        "labels:", "model: {bottom: [8]}\nlabels:"
    )


@pytest.mark.parametrize(("old", "new"), [("squared", "log"), ("click", "clicked"), ("  - {name: click}\n", "")])
def test_what_the_kept_weights_predict_cannot_change(old, new):
    before, after = parse_job(JOB, "job.yaml"), parse_job(JOB.replace(old, new, 1), "job.yaml")
    with pytest.raises(ConfigError, match="the state folder is of another model"):
        check_lasting(settings_of(before), settings_of(after))


def test_a_tasks_weight_may_change_in_a_run():
    before, after = parse_job(JOB, "job.yaml"), parse_job(JOB.replace("0.25", "0.5", 1), "job.yaml")
    check_lasting(settings_of(before), settings_of(after))
    assert changes(settings_of(before), settings_of(after)) == {"labels[1].weight": (0.25, 0.5)}


def test_the_settings_of_a_build_without_tasks_are_of_the_same_model():
    job = parse_job(JOB[: JOB.index("labels:")], "job.yaml")
    older = msgspec.json.decode(job_json(job))
    del older["labels"], older["model"]["bottom"]
    assert changes(settings_in(msgspec.json.encode(older)), settings_of(job)) == {}
