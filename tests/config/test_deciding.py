"""Which settings decide bits: every key of a job says so of itself."""

from __future__ import annotations

import json
from collections.abc import Iterator

import msgspec
import pytest
from msgspec import inspect

from monolith.config.deciding import DECIDING, INDIFFERENT, MIXED, flat_json, is_deciding, settings_in, settings_of
from monolith.config.job import JobConfig
from monolith.config.load import job_json


def keys(type_: inspect.Type, path: str = "") -> Iterator[str]:
    """Every key of a job, places in lists left out. The keys of variants (an optimizer's) are those above them."""
    if isinstance(type_, inspect.ListType):
        yield from keys(type_.item_type, path)
    elif isinstance(type_, inspect.StructType) and type_.tag_field is None and path != "tables.slices":
        for field in type_.fields:
            key = f"{path}.{field.encode_name}".lstrip(".")
            yield key
            yield from keys(field.type, key)


KEYS = list(keys(inspect.type_info(JobConfig)))


@pytest.mark.parametrize("key", KEYS)
def test_every_key_of_a_job_is_classified(key):
    classes = [key in DECIDING, key in INDIFFERENT, key in MIXED - DECIDING]
    assert classes.count(True) == 1, f"say in monolith/config/deciding.py whether {key} decides bits"


def test_nothing_is_classified_that_no_job_has():
    assert (DECIDING | INDIFFERENT) - set(KEYS) == set()


def test_a_key_that_is_not_named_is_as_the_one_above_it():
    assert is_deciding("tables.optimizer.lr")
    assert is_deciding("join.a_key_of_another_build")
    assert not is_deciding("tables.memory.folder")
    assert not is_deciding("serve.a_key_of_another_build")


def test_settings_are_the_deciding_part_of_the_job_in_canonical_form(parse):
    settings = json.loads(settings_of(parse()))
    assert list(settings) == sorted(settings)
    assert list(settings["input"]) == sorted(settings["input"])
    assert "features" not in settings["input"]
    assert "memory" not in settings["tables"][0]
    assert settings["tables"][0] == {
        k: v for k, v in json.loads(job_json(parse()))["tables"][0].items() if k != "memory"
    }
    assert settings_of(parse()) == msgspec.json.encode(settings, order="sorted")


@pytest.mark.parametrize(
    ("setting", "same"),
    [
        ("store=lmdb://elsewhere", True),
        ("serve.threads=9", True),
        ("publish.payload=int8_rowwise", True),
        ("train.step_records=9", True),
        ("tables.user.memory={kind: file, folder: /data}", True),
        ("train.batch_size=9", False),
        ("join.window_s=9", False),
        ("tables.user.expiry.kind=idle", False),
    ],
)
def test_jobs_that_make_the_same_of_the_same_records_have_the_same_settings(parse, setting, same):
    assert (settings_of(parse(sets=[setting])) == settings_of(parse())) is same


def test_an_older_build_s_job_keeps_its_own_keys(parse):
    data = json.loads(job_json(parse()))
    del data["train"]["threads"]
    data["join"]["shuffle"] = True
    settings = json.loads(settings_in(json.dumps(data).encode()))
    assert "threads" not in settings["train"]
    assert settings["join"]["shuffle"] is True


def test_the_form_that_digests_are_made_of_is_one_object_sorted_by_path(parse):
    leaves = json.loads(flat_json(settings_of(parse())))
    assert list(leaves) == sorted(leaves)
    assert leaves["tables[1].optimizer.beta1"] == 0.8
