from __future__ import annotations

import pytest

from monolith.config import job_json
from monolith.config.changes import changes
from monolith.config.deciding import settings_of
from monolith.config.references import check_late, late_keys, late_texts
from monolith.errors import ConfigError


def test_urls_keep_their_references_and_other_values_take_theirs(parse, monkeypatch):
    monkeypatch.setenv("SIZE", "64")
    monkeypatch.setenv("NAME", "007")
    monkeypatch.delenv("PW", raising=False)
    job = parse(sets=["train.batch_size='${SIZE}'", "name=${NAME}", "seed=${SIZE}", "store=redis://:${PW}@h/0"])
    assert (job.train.batch_size, job.name, job.seed) == (64, "007", 64)
    assert job.store == "redis://:${PW}@h/0"
    assert b"redis://:${PW}@h/0" in job_json(job)


def test_file_may_be_given_as_a_mapping(parse, tmp_path):
    (tmp_path / "rate").write_text("5e-1\n")
    job = parse(sets=[f"tables.user.optimizer.lr={{file: {tmp_path}/rate}}", f"store={{file: {tmp_path}/store}}"])
    assert job.tables[0].optimizer.lr == 0.5
    assert job.store == f"${{file:{tmp_path}/store}}"


def test_references_reach_kinds_lists_and_unions(parse, monkeypatch):
    for name, value in (("KIND", "adam"), ("YES", "true"), ("WORD", "none"), ("NUMBER", "3"), ("ACTION", "17")):
        monkeypatch.setenv(name, value)
    job = parse(
        "    bag: true",
        "    bag: ${YES}\n  - {name: tags, type: string, default: '${WORD}'}\n  - {name: user, default: '${NUMBER}'}",
        ["tables.user.optimizer.kind=${KIND}", "join.positive_actions=['${ACTION}', buy]", "serve.max_age_s=${NUMBER}"],
    )
    assert type(job.tables[0].optimizer).__name__ == "Adam"
    assert (job.feature("genres").bag, job.feature("tags").default, job.feature("user").default) == (True, "none", 3)
    assert job.join.positive_actions == ["17", "buy"]
    assert job.serve.max_age_s == 3.0


def test_missing_variable_is_an_error_by_key_and_line(parse, refused, monkeypatch):
    monkeypatch.delenv("SIZE", raising=False)
    assert "job.yaml:22: train.batch_size: the environment has no variable SIZE" in refused(
        "batch_size: 16", "batch_size: ${SIZE}"
    )
    assert "tables[0].dim: the file /none/x cannot be read" in refused(sets=["tables.user.dim={file: /none/x}"])
    with pytest.raises(ConfigError, match=r"store: the environment has no variable SIZE"):
        check_late(parse(sets=["store=redis://:${SIZE}@h"]), "input", "store")
    check_late(parse(sets=["store=redis://:${SIZE}@h"]), "input", "serve")


def test_value_of_a_reference_is_in_no_error(refused, monkeypatch):
    for value in ("hunter2'x", "!" + "h" * 50 + "unter2"):
        monkeypatch.setenv("PW", value)
        for key in ("train.batch_size", "model.kind", "name", "tables.user.optimizer.kind", "tables.user.dim"):
            text = refused(sets=[f"{key}=${{PW}}"])
            assert "hunter" not in text
            assert "hhh" not in text


def test_password_in_a_url_is_in_no_error_and_not_in_the_kept_job(parse, refused):
    url = "redis://:hunter2@h/0"
    job = parse(sets=[f"store={url}"])
    assert job.store == url
    assert b"hunter2" not in job_json(job)
    assert b"redis://***@h/0" in job_json(job)
    for key in ("input.features", "input.dead_letters", "nme", "tables.nobody.dim", "store.x"):
        assert "hunter2" not in refused(sets=[f"{key}={url}"])
    assert "hunter2" not in refused(sets=["store=reddis://:hunter2@h/0"])


def test_reference_of_a_form_that_can_never_be_is_refused_when_the_file_is_read(refused):
    assert "store: ${A:-b} names no variable" in refused(sets=["store=redis://:${A:-b}@h"])


def test_late_keys_are_the_urls_of_a_job(parse):
    assert {".".join(keys) for keys in late_keys()} >= {"input.features", "input.samples", "store"}
    assert dict(late_texts(parse())) == {
        "input.features": "log://build/features",
        "input.actions": "log://build/actions",
        "store": "lmdb://build/store",
    }


def test_number_that_a_variable_changes_is_a_change_of_settings(parse, monkeypatch):
    monkeypatch.setenv("SIZE", "16")
    before = settings_of(parse("batch_size: 16", "batch_size: ${SIZE}"))
    monkeypatch.setenv("SIZE", "32")
    after = settings_of(parse("batch_size: 16", "batch_size: ${SIZE}"))
    assert changes(before, after) == {"train.batch_size": (16, 32)}


def test_password_that_changes_is_no_change_of_settings(parse):
    one, two = (settings_of(parse(sets=[f"input.dead_letters=kafka://u:{word}@h/t"])) for word in ("one", "two"))
    assert changes(one, two) == {}
