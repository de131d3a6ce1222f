"""An unknown or ill-typed key: file, line, full path, what was seen, what is allowed, the nearest right key."""

from __future__ import annotations

import pytest

from monolith.config import parse_job
from monolith.errors import ConfigError


def test_unknown_key_names_line_path_nearest_and_allowed(refused):
    text = refused("  batch_size: 16", "  batchsize: 16")
    assert text.startswith(
        "job.yaml:22: train.batchsize: unknown key 'batchsize' (did you mean 'batch_size'?); allowed: "
    )
    assert "step_records" in text


def test_unknown_key_inside_a_variant_names_its_kind(refused):
    text = refused("lr: 0.05", "learning_rate: 0.05")
    assert "job.yaml:8: tables[0].optimizer.learning_rate: unknown key 'learning_rate' of kind 'adagrad'" in text
    assert "allowed: kind, lr, initial_accumulator, eps, weight_decay" in text


def test_key_of_another_variant_is_refused(refused):
    refused("lr: 0.05", "beta1: 0.9", says="tables[0].optimizer.beta1: unknown key 'beta1' of kind 'adagrad'")


def test_unknown_kind_names_the_nearest_and_all(refused):
    text = refused("kind: adagrad", "kind: adagrd")
    assert "job.yaml:8: tables[0].optimizer.kind: unknown kind 'adagrd' (did you mean 'adagrad'?)" in text
    assert all(kind in text.split("allowed kinds: ")[1] for kind in ("sgd", "adagrad", "rowwise_adagrad", "adam"))


def test_a_variant_without_kind_or_as_a_bare_word_is_explained(refused):
    refused("{kind: adagrad, lr: 0.05}", "{lr: 0.05}", says="tables[0].optimizer: the key 'kind' is missing")
    refused("{kind: adagrad, lr: 0.05}", "adagrad", says="(write {kind: adagrad})")


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("dim: 4", "dim: four", "job.yaml:7: tables[0].dim: expected an integer >= 1; saw the text 'four'"),
        ("dim: 4", "dim: 4.5", "tables[0].dim: expected an integer >= 1; saw the number 4.5"),
        ("dim: 4", "dim: true", "tables[0].dim: expected an integer >= 1; saw the boolean True"),
        ("dim: 4", "dim:", "tables[0].dim: expected an integer >= 1; saw empty (null)"),
        ("name: movies", "name: 7", "job.yaml:1: name: expected text; saw the integer 7"),
        ("bag: true", "bag: 1", "features[0].bag: expected true or false; saw the integer 1"),
        ("lr: 0.05", "lr: .nan", "tables[0].optimizer.lr: expected a number > 0; saw nan"),
        (
            "type: string",
            "type: strin",
            "saw the text 'strin' (did you mean 'string'?); allowed: bool, float, hour, int, string, weekday",
        ),
        ("[genres, tags]", "genres", "tables[2].features: expected a list; saw the text 'genres'"),
        ("[genres, tags]", "[genres, 3]", "tables[2].features[1]: expected text; saw the integer 3"),
        ("store: lmdb://build/store", "store: [a]", "store: expected text or null; saw the list ['a']"),
        ("  batch_size: 16", "  - 16", "train: expected a mapping with the keys batch_size"),
    ],
)
def test_ill_typed_value_says_what_was_seen_and_what_is_allowed(refused, old, new, says):
    refused(old, new, says=says)


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("train.batch_size=0", "train.batch_size: expected an integer >= 1; saw 0"),
        ("join.window_s=0", "join.window_s: expected a number > 0; saw 0"),
        ("join.window_s=-5", "join.window_s: expected a number > 0; saw -5"),
        ("join.window_s=.inf", "join.window_s: expected a number > 0; saw inf"),
        ("join.negative_rate=1.5", "join.negative_rate: expected a number > 0 and <= 1; saw 1.5"),
        ("tables.movie.optimizer.beta1=1", "tables[1].optimizer.beta1: expected a number >= 0 and < 1; saw 1"),
        ("tables.user.admission={kind: min_count, count: 0}", "tables[0].admission.count: expected an integer >= 1"),
        ("tables.user.expiry={kind: idle, ttl_s: 0}", "tables[0].expiry.ttl_s: expected a number > 0; saw 0"),
        ("tables.user.expiry={kind: absolute, ttl_s: 0}", "tables[0].expiry.ttl_s: expected a number > 0; saw 0"),
        (
            "tables.user.eviction={kind: lru, max_rows: 0}",
            "tables[0].eviction.max_rows: expected an integer >= 1 or null",
        ),
        ("tables.genres.per_feature=[tags]", "tables[2].per_feature: expected a mapping; saw "),
        ("tables.genres.per_feature={tags: {admision: null}}", "per_feature.tags.admision: unknown key 'admision'"),
        (
            "tables.genres.per_feature={tags: {expiry: {kind: idle, ttl: 3}}}",
            "tables[2].per_feature.tags.expiry.ttl: unknown key 'ttl' of kind 'idle' (did you mean 'ttl_s'?)",
        ),
        ("tables.user.eviction={kind: score, max_rows: 5}", "tables[0].eviction: the key 'function' is missing"),
        ("model.hidden=[64, 0]", "model.hidden[1]: expected an integer >= 1; saw 0"),
    ],
)
def test_value_outside_its_limits_is_refused(refused, option, says):
    assert refused(sets=[option], says=says).startswith(f"--set {option}: ")


def test_missing_required_keys_are_named(refused):
    assert "job.yaml:6: tables[0]: the key 'dim' is missing; give an integer >= 1" in refused("    dim: 4\n", "")
    assert refused("name: movies\n", "") == "job.yaml:1: the key 'name' is missing; give text"


@pytest.mark.parametrize("text", ["", "just words", "[1, 2]"])
def test_a_file_without_a_mapping_is_refused(text):
    with pytest.raises(ConfigError, match=r"^job\.yaml"):
        parse_job(text, "job.yaml")


def test_all_problems_are_listed_at_once(refused):
    text = refused("  batch_size: 16", "  batch_siz: 16\n  thread: 2")
    assert text.splitlines()[0] == "job.yaml: 2 things are wrong:"
    assert "batch_siz" in text.splitlines()[1]
    assert "thread" in text.splitlines()[2]


def test_a_payload_is_one_of_those_that_there_are(refused):
    text = refused("train:", "publish: {payload: int8}\ntrain:")
    assert "publish.payload: " in text
    assert all(name in text for name in ("'int8'", "float32", "float16", "bfloat16", "int8_rowwise"))
