"""What differs between the settings of two stretches of a run, and what may."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from monolith.config import changes as changes_module
from monolith.config.changes import amended, changes, check_lasting, job_under
from monolith.config.deciding import Settings, settings_in, settings_of
from monolith.config.load import job_json, parse_job
from monolith.errors import ConfigError


def of_an_older_build(job, *missing: str, **extra: Any) -> Settings:
    """The settings of ``job`` without the keys at the paths ``missing``, with the top-level keys ``extra``."""
    data = json.loads(job_json(job))
    for path in missing:
        *way, last = path.split(".")
        place = data
        for name in way:
            place = place[int(name)] if name.isdigit() else place[name]
        del place[last]
    return settings_in(json.dumps({**data, **extra}).encode())


def test_each_setting_that_differs_is_named_with_what_it_was_and_is(parse):
    old, new = parse(), parse(sets=["seed=4", "tables.user.optimizer.lr=0.5"])
    assert changes(settings_of(old), settings_of(new)) == {
        "seed": (0, 4),
        "tables[0].optimizer.lr": (0.05, 0.5),
    }


@pytest.mark.parametrize(
    "key", ["tables.0.absent", "tables.0.optimizer.clip_global_norm", "train.threads", "dense_optimizer.on_nonfinite"]
)
def test_a_key_that_the_older_build_did_not_have_is_no_change_where_the_job_has_its_default(parse, key):
    assert changes(of_an_older_build(parse(), key), settings_of(parse())) == {}


def test_sections_that_the_older_build_did_not_have_are_no_change_either(parse):
    older = of_an_older_build(parse(), "publish", "dense_optimizer", "labels", "model.bottom")
    assert changes(older, settings_of(parse())) == {}


def test_a_key_that_the_older_build_did_not_have_was_the_default_where_the_job_says_otherwise(parse):
    older = of_an_older_build(parse(), "train.threads")
    assert changes(older, settings_of(parse(sets=["train.threads=4"]))) == {"train.threads": (1, 4)}


def test_keys_of_a_features_own_rules_that_the_older_build_did_not_have_are_no_change(parse):
    rules = ["tables.genres.per_feature.tags.expiry.kind=idle"]
    job = parse(sets=rules)
    older = of_an_older_build(job, "tables.2.per_feature.tags.admission", "tables.2.per_feature.tags.expiry.max_age_s")
    assert changes(older, settings_of(job)) == {}


def test_a_retired_key_that_held_its_old_default_is_no_change(parse, monkeypatch):
    monkeypatch.setattr(changes_module, "RETIRED", {"tables.optimizer.lookahead": 0})
    data = json.loads(job_json(parse()))
    data["tables"][1]["optimizer"]["lookahead"] = 0
    assert changes(settings_in(json.dumps(data).encode()), settings_of(parse())) == {}
    data["tables"][1]["optimizer"]["lookahead"] = 5
    found = changes(settings_in(json.dumps(data).encode()), settings_of(parse()))
    assert found == {"tables[1].optimizer.lookahead": (5, None)}


def test_job_of_a_build_that_knew_no_step_count_of_adam_is_unchanged(parse):
    """Its tables go on by the count that they were saved with."""
    job = parse(sets=["tables.user.optimizer.kind=adam"])
    assert changes(of_an_older_build(job, "tables.0.optimizer.steps"), settings_of(job)) == {}


@pytest.mark.parametrize(
    "setting",
    [
        "model.kind=fm",
        "model.hidden=[8]",
        "dense_optimizer.kind=sgd",
        "tables.user.name=person",
        "tables.user.dim=8",
        "tables.user.seed=1",
        "tables.user.shared_ids=true",
        "labels=[{name: like}]",
    ],
)
def test_what_kept_rows_and_weights_are_of_is_refused_by_name(parse, setting):
    old = parse()
    new = msgspec.convert(_set(msgspec.to_builtins(old), setting), type(old))
    key = setting.partition("=")[0].replace("tables.user", r"tables\[0\]").replace("labels", r"labels\[0\].name")
    with pytest.raises(ConfigError, match=rf"^{key}.* was .*, now .*: the state folder is of another model"):
        check_lasting(settings_of(old), settings_of(new))


def test_all_else_may_change_in_one_state_folder(parse):
    sets = ["seed=4", "join.window_s=60", "tables.user.optimizer.lr=1", "train.batch_size=4", "dense_optimizer.lr=1"]
    declared = "  - name: genres\n    type: string\n    bag: true\n"
    check_lasting(settings_of(parse()), settings_of(parse(sets=sets)))
    check_lasting(settings_of(parse()), settings_of(parse(declared, declared + "  - {name: user, default: 7}\n")))


class TestJobUnder:
    """A job under the settings of an earlier stretch of its run."""

    def test_settings_that_decide_are_the_stretch_s_and_all_others_are_the_job_s(self, parse):
        was = parse(sets=["seed=4", "tables.movie.optimizer={kind: sgd, lr: 0.5}", "train.publish_every_s=9"])
        job = parse(sets=["store=lmdb://elsewhere", "tables.movie.memory={kind: file, folder: /data}"])
        under = job_under(job, settings_of(was), 7)
        assert settings_of(under) == settings_of(was)
        indifferent = (under.store, under.tables[1].memory, under.train.publish_every_s)
        assert indifferent == ("lmdb://elsewhere", job.tables[1].memory, 0.5)

    def test_a_key_that_the_stretch_s_build_did_not_have_has_its_default(self, parse):
        older = of_an_older_build(parse(), "train.threads", "tables.0.absent")
        under = job_under(parse(sets=["train.threads=4", "tables.user.absent={kind: hashed_tail, rows: 8}"]), older, 7)
        assert (under.train.threads, under.tables[0].absent) == (1, parse().tables[0].absent)

    def test_a_default_that_changed_since_is_the_stretch_s(self, parse):
        """Settings have their defaults written out, so another build's defaults change no step."""
        was = settings_of(parse(sets=["join.dedup_s=7200"]))
        assert job_under(parse(), was, 7).join.dedup_s == 7200

    def test_settings_that_this_build_does_not_have_are_refused_by_name_with_the_step(self, parse):
        data = json.loads(job_json(parse()))
        data["join"]["shuffle"] = True
        data["tables"][1]["optimizer"]["kind"] = "lion"
        words = (
            r"steps from 7 on .* tables\[1\]\.optimizer.*lion.* join\.shuffle: unknown key .* Start the build that made"
        )
        with pytest.raises(ConfigError, match=words):
            job_under(parse(), settings_in(json.dumps(data).encode()), 7)

    def test_a_retired_key_that_held_its_old_default_is_left_out(self, parse, monkeypatch):
        monkeypatch.setattr(changes_module, "RETIRED", {"join.shuffle": False})
        data = json.loads(job_json(parse()))
        data["join"]["shuffle"] = False
        assert job_under(parse(), settings_in(json.dumps(data).encode()), 7) == parse()


class TestAmended:
    """The only way on for journalled steps that cannot be run again as they were."""

    def way_on(self, old, new, *, from_first: bool = False) -> dict[str, tuple[Any, Any]]:
        pending = settings_of(old)
        return changes(pending, amended(pending, settings_of(new), from_first=from_first))

    @pytest.mark.parametrize(
        ("setting", "key"),
        [
            ("dense_optimizer.on_nonfinite=skip_step", "dense_optimizer.on_nonfinite"),
            ("tables.user.on_nonfinite=clip", "tables[0].on_nonfinite"),
        ],
    )
    def test_steps_that_raise_stopped_are_run_again_under_another_policy(self, parse, setting, key):
        """It decides nothing in the steps that went well; without it the job never gets past the one that did not."""
        assert list(self.way_on(parse(), parse(sets=[setting]))) == [key]

    def test_the_size_that_clip_cuts_to_comes_with_it(self, parse):
        new = parse(sets=["tables.user.on_nonfinite=clip", "tables.user.max_gradient=2", "seed=4"])
        assert list(self.way_on(parse(), new)) == ["tables[0].max_gradient", "tables[0].on_nonfinite"]

    def test_the_way_back_and_every_other_change_wait(self, parse):
        old = parse(sets=["tables.user.on_nonfinite=clip"])
        assert self.way_on(old, parse()) == {}
        new = parse(sets=["tables.user.on_nonfinite=clip", "tables.user.max_gradient=2", "train.batch_size=4"])
        assert self.way_on(old, new) == {}

    @pytest.mark.parametrize("setting", ["input.time_unit=s", "input.check_time_unit=false"])
    def test_the_first_steps_of_a_stream_that_was_refused_for_its_unit_are_read_in_another(self, parse, setting):
        """They trained nothing, and their records are read anew."""
        assert list(self.way_on(parse(), parse(sets=[setting]), from_first=True)) == [setting.split("=")[0]]
        assert self.way_on(parse(), parse(sets=[setting]), from_first=False) == {}
        assert self.way_on(parse(sets=[setting]), parse(), from_first=True) == {}

    def test_a_policy_that_the_steps_build_did_not_know_was_raise(self, parse):
        older = of_an_older_build(parse(), "tables.0.on_nonfinite", "dense_optimizer")
        new = parse(sets=["tables.user.on_nonfinite=clip", "dense_optimizer.on_nonfinite=skip_step"])
        found = changes(older, amended(older, settings_of(new), from_first=False))
        assert list(found) == ["dense_optimizer.on_nonfinite", "tables[0].on_nonfinite"]

    def test_where_nothing_is_stuck_the_bytes_stay(self, parse):
        older = of_an_older_build(parse(), "train.threads")
        assert amended(older, settings_of(parse(sets=["seed=4"])), from_first=True) is older


def _set(data: Any, setting: str) -> Any:
    """The plain job with one key of it, or of its first table, set to YAML."""
    import yaml

    path, _, text = setting.partition("=")
    *way, last = path.replace("tables.user", "tables.0").split(".")
    place = data
    for name in way:
        place = place[int(name)] if name.isdigit() else place[name]
    place[last] = yaml.safe_load(text)
    return data


def test_a_feature_that_joins_a_table_of_one_is_refused_as_its_rows_would_be_other_ids(text_of_features):
    one, two, three = (settings_of(parse_job(text_of_features(names), "j")) for names in ("[a]", "[a, b]", "[a, b, c]"))
    for before, after in ((one, two), (two, one)):
        with pytest.raises(ConfigError, match=r"tables\.t\.features was .* the state folder is of another model"):
            check_lasting(before, after)
    check_lasting(two, three)
    shared = [settings_of(parse_job(text_of_features(names, "true"), "j")) for names in ("[a]", "[a, b]")]
    check_lasting(*shared)
    strings = [settings_of(parse_job(text_of_features(names, "true", "string"), "j")) for names in ("[a]", "[a, b]")]
    with pytest.raises(ConfigError, match="another model"):
        check_lasting(*strings)


@pytest.fixture
def text_of_features():
    def make(names: str, shared: str = "false", kind: str = "int") -> str:
        table = f"{{name: t, dim: 4, features: {names}, shared_ids: {shared}}}"
        declared = f"features: [{{name: a, type: {kind}}}]"
        return f"name: j\ninput: {{samples: 'log://s'}}\ntables: [{table}]\n{declared}\n"

    return make
