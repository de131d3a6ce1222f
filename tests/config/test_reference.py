"""The reference of the job file and its schema are complete and say what the structs say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import msgspec
import pytest
import yaml
from msgspec import inspect

from monolith.config import meanings
from monolith.config.examples import EXAMPLES, example
from monolith.config.job import JobConfig
from monolith.config.json_schema import schema, schema_text
from monolith.config.limits import Count
from monolith.config.reference import DOCS, all_keys, job_md, sections
from monolith.config.schema import problems

JOBS = sorted((DOCS.parent / "jobs").glob("*.yaml"))


def test_job_page_and_schema_are_as_the_structs_say():
    assert (DOCS / "job.md").read_text() == job_md(), "run `make docs` and commit docs/job.md"
    assert (DOCS / "job.schema.json").read_text() == schema_text(), "run `make docs` and commit docs/job.schema.json"


def test_every_key_of_the_job_file_has_a_meaning_in_one_line():
    keys = list(all_keys())
    assert len(keys) > 150
    assert [key.path for key in keys if not key.meaning or "\n" in key.meaning] == []
    by_path = {key.path: key for key in keys}
    assert by_path["train.batch_size"].default == "256"
    assert by_path["join.window_s"].meaning == "a feature event without a positive action for this long is a negative"
    assert by_path["tables[].optimizer.lr"].meaning == "the learning rate"


def test_every_struct_that_a_job_can_hold_has_a_section():
    """Counted anew, by another way than the reference does it."""
    definitions = msgspec.json.schema(JobConfig)["$defs"]
    described = {key.struct.__name__ for section in sections() for key in section.keys}
    assert {name for name, found in definitions.items() if set(found["properties"]) - {"kind"}} == described


@pytest.mark.parametrize("key", [pytest.param(key, id=f"{n}-{key.path}") for n, key in enumerate(all_keys())])
def test_every_example_is_a_value_of_its_key(key):
    assert list(problems(example(key.path, key.type_, key.default), key.type_)) == []


def test_every_example_that_is_given_is_of_a_key():
    assert sorted(EXAMPLES.keys() - {key.path for key in all_keys()}) == []


class Outer(msgspec.Struct):
    said: int = 0  # how many
    # above, in
    # two lines
    above: int = 0
    silent: Annotated[int, msgspec.Meta(ge=0)] = 0
    excused: int = 0  # type: ignore


class First(msgspec.Struct, tag="first"):
    shared: Count = 1  # said once


class Second(msgspec.Struct, tag="second"):
    shared: Count = 1


def test_meaning_is_the_comment_beside_a_field_or_the_lines_above_it():
    found = [meanings.meaning(Outer, name) for name in ("said", "above", "silent", "excused")]
    assert found == ["how many", "above, in two lines", "", ""]
    assert meanings.meaning(Second, "shared") == "said once"


def test_key_without_a_meaning_is_named(monkeypatch):
    monkeypatch.setattr("monolith.config.reference.meaning", lambda struct, name: "" if name == "idle_s" else "so")
    with pytest.raises(ValueError, match=r"input\.idle_s has no meaning: write a comment beside InputConfig\.idle_s"):
        list(all_keys())


def test_schema_names_every_key_with_its_meaning_and_limits():
    made = schema()
    train = made["$defs"]["TrainConfig"]["properties"]
    assert train["batch_size"]["description"] == "samples an optimizer step, at most"
    assert {"type": "integer", "minimum": 1} in train["batch_size"]["anyOf"]
    assert {"$ref": "#/$defs/Reference"} in train["batch_size"]["anyOf"]
    assert made["$defs"]["JobConfig"]["additionalProperties"] is False
    for name, definition in made["$defs"].items():
        for key, value in definition.get("properties", {}).items():
            assert key == "kind" or name == "Reference" or "description" in value or "$ref" in value, (name, key)


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_schema_accepts_the_jobs_of_this_repository_and_refuses_a_wrong_key(path: Path):
    jsonschema = pytest.importorskip("jsonschema", reason="the schema is tried with jsonschema, which is not installed")
    job = yaml.safe_load(path.read_text())
    validator = jsonschema.Draft202012Validator(json.loads(schema_text()))
    assert list(validator.iter_errors(job)) == []
    assert list(validator.iter_errors(job | {"nme": "x"})) != []
    assert list(validator.iter_errors(job | {"store": {"file": "/run/secrets/store"}, "seed": "${SEED}"})) == []


def test_type_of_a_key_is_in_peoples_words():
    from monolith.config.reference import words

    assert words(inspect.type_info(Annotated[float, msgspec.Meta(gt=0, le=1)])) == "number > 0 and <= 1"
    assert words(inspect.type_info(dict[str, list[int]])) == "mapping from text to list of integer"
