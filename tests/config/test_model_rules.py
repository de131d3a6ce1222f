"""What `model` in the job file may say."""

from __future__ import annotations

import json

import pytest

from monolith.config.changes import changes, check_lasting, job_under
from monolith.config.deciding import settings_in, settings_of
from monolith.config.load import job_json
from monolith.errors import ConfigError

OWN = "model={kind: 'mypkg.nets:Net', options: {sizes: [8, 4], deep: {act: relu, p: 0.5}, name: null}}"


@pytest.mark.parametrize(
    ("sets", "says"),
    [
        (["model.kind=deepfn"], "model.kind: saw the text 'deepfn' (did you mean 'deepfm'?); allowed: lr, fm, deepfm"),
        (["model.kind=mypkg.nets"], "mlp, dcnv2, dlrm, or MODULE:CLASS"),
        (["model.kind=':Net'"], "model.kind: saw the text ':Net'"),
        (["model.cross_rank=4"], "model.cross_rank: the model deepfm does not read it; leave it out, or take dcnv2"),
        (["model.kind=fm", "model.dropout=0.1"], "model.dropout: the model fm does not read it; leave it out, or take"),
        (
            ["model.options={width: 8}"],
            "model.options: the model deepfm does not read it; leave it out, or take MODULE",
        ),
        ([OWN, "model.hidden=[8]"], "model.hidden: the model mypkg.nets:Net does not read it"),
        (["model.dropout=1"], "model.dropout: expected a number >= 0 and < 1; saw 1"),
        (["model.norm=btach"], "model.norm: saw the text 'btach' (did you mean 'batch'?); allowed: batch, layer, none"),
        (["model.embedding_l2=-1"], "model.embedding_l2: expected a number >= 0; saw -1"),
        (
            ["model.kind=widedeep"],
            "tables[0].dim: the model widedeep takes tables of dim 1 for its wide part and others",
        ),
    ],
)
def test_what_the_model_does_not_take_is_named_with_what_it_does(refused, sets, says):
    refused(sets=sets, says=says)


def test_options_of_a_class_may_be_anything_and_survive_in_the_journal(parse):
    job = parse(sets=[OWN])
    assert job.model.options == {"sizes": [8, 4], "deep": {"act": "relu", "p": 0.5}, "name": None}
    assert json.loads(job_json(job))["model"]["options"] == job.model.options
    assert changes(settings_in(job_json(job)), settings_of(job)) == {}
    assert job_under(parse(), settings_of(job), 1).model == job.model


def test_a_changed_option_of_a_class_is_another_model(parse):
    other = parse(sets=[OWN, "model.options.deep.p=0.6"])
    with pytest.raises(ConfigError, match=r"model.options.deep.p was 0.5, now 0.6: the state folder is of another"):
        check_lasting(settings_of(parse(sets=[OWN])), settings_of(other))


@pytest.mark.parametrize("setting", ["model.dropout=0.1", "model.embedding_l2=0.001"])
def test_how_a_model_learns_may_change(parse, setting):
    old, new = settings_of(parse()), settings_of(parse(sets=[setting]))
    check_lasting(old, new)
    assert list(changes(old, new)) == [setting.partition("=")[0]]


@pytest.mark.parametrize("setting", ["model.norm=batch", "model.activation=tanh", "model.hidden=[4]"])
def test_what_a_model_is_may_not(parse, setting):
    with pytest.raises(ConfigError, match="the state folder is of another model"):
        check_lasting(settings_of(parse()), settings_of(parse(sets=[setting])))


def test_a_job_of_a_build_with_fewer_model_keys_is_unchanged(parse):
    data = json.loads(job_json(parse()))
    data["model"] = {key: data["model"][key] for key in ("kind", "hidden", "bottom")}
    assert changes(settings_in(json.dumps(data).encode()), settings_of(parse())) == {}
