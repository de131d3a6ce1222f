from __future__ import annotations

from pathlib import Path

import pytest

from monolith.config import job_from_json, job_json, load_job
from monolith.config.admission import Always, MinCount, Probability
from monolith.config.eviction import LFU
from monolith.config.expiry import Absolute, Forever, Idle
from monolith.config.memory import File, Ram
from monolith.config.optimizers import Adagrad, Adam
from monolith.config.table import FeatureRules
from monolith.errors import ConfigError
from monolith.tables import Table


def test_a_job_file_becomes_typed_structs_with_defaults(parse):
    job = parse()
    assert job.tables[0].optimizer == Adagrad(lr=0.05)
    assert job.tables[1].optimizer == Adam(beta1=0.8)
    assert job.tables[1].admission == Always()
    assert job.train.batch_size == 16
    assert job.join.window_s == 1800.0
    assert job.feature_names() == ["user", "movie", "genres", "tags"]
    assert job.feature("genres").bag


def test_rules_of_tables_and_features_come_from_the_file(parse):
    rules = """eviction: {kind: lfu, max_bytes: 1000000, half_life_s: 3600}
    expiry: {kind: idle, ttl_s: 60, max_age_s: 600}
    per_feature:
      tags: {admission: {kind: probability, p: 0.5, half_life_s: 10}, expiry: {kind: absolute, ttl_s: 5}}
      genres: {admission: null, expiry: {kind: forever}}
    features: [genres, tags]"""
    table = parse("features: [genres, tags]", rules).tables[2]
    assert table.eviction == LFU(max_bytes=1_000_000, half_life_s=3600)
    assert table.expiry == Idle(ttl_s=60, max_age_s=600)
    assert table.per_feature == {
        "tags": FeatureRules(Probability(0.5, half_life_s=10), Absolute(ttl_s=5)),
        "genres": FeatureRules(expiry=Forever()),
    }
    assert Table(table).config == table


def test_a_job_is_read_from_a_file_and_options_go_over_it(tmp_path: Path, job_text):
    path = tmp_path / "job.yaml"
    path.write_text(job_text)
    assert load_job(path, ["name=other"]).name == "other"


def test_a_missing_or_binary_job_file_is_a_config_error(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"cannot read the job file .*none\.yaml"):
        load_job(tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot read the job file"):
        load_job(tmp_path / "binary.yaml")


def test_exponents_without_a_point_are_numbers(parse):
    assert parse("lr: 0.05", "lr: 5e-2").tables[0].optimizer == Adagrad(lr=0.05)


def test_merge_keys_fill_in_what_is_not_given(parse):
    text = "    optimizer:\n      kind: adam\n      beta1: 0.8"
    merged = "    optimizer:\n      <<: {kind: adam, beta1: 0.1, lr: 0.5}\n      beta1: 0.8"
    assert parse(text, merged).tables[1].optimizer == Adam(lr=0.5, beta1=0.8)


def test_broken_yaml_names_its_line(refused):
    assert "job.yaml:1: not YAML" in refused("name: movies", "name: [movies}")


def test_a_key_given_twice_is_refused_with_both_lines(refused):
    text = refused("  batch_size: 16", "  batch_size: 16\n  batch_size: 32")
    assert text == "job.yaml:23: train.batch_size is given twice, first in line 22"


def test_canonical_json_does_not_depend_on_how_the_job_was_written(parse):
    assert job_json(parse()) == job_json(parse(sets=["train.threads=1", "join.window_s=1800"]))
    assert job_json(parse()) != job_json(parse(sets=["train.threads=2"]))


def test_canonical_json_round_trips(parse):
    job = parse(sets=["tables.user.admission={kind: min_count, count: 3}"])
    assert job.tables[0].admission == MinCount(3)
    assert job_from_json(job_json(job)) == job


def test_a_stored_job_of_another_build_is_refused():
    with pytest.raises(ConfigError, match="cannot be read by this build"):
        job_from_json(b'{"name": "x", "new_key": 1}')


def test_table_optimizer_is_clipped_by_a_global_norm(parse, refused):
    job = parse("{kind: adagrad, lr: 0.05}", "{kind: adagrad, clip_global_norm: 5}")
    assert job.tables[0].optimizer.clip_global_norm == 5.0
    assert parse().tables[0].optimizer.clip_global_norm is None
    refused("lr: 0.05", "clip_global_norm: -1", says="tables[0].optimizer.clip_global_norm")
    refused("lr: 0.05", "clip_globl_norm: 1", says="did you mean 'clip_global_norm'?")


def test_table_may_lie_in_a_file(parse, refused):
    def memory(text):
        return {"old": "    optimizer: {kind: adagrad, lr: 0.05}", "new": f"    memory: {{{text}}}"}

    assert parse(**memory("kind: file, folder: /data")).tables[0].memory == File(folder="/data")
    assert parse().tables[0].memory == Ram()
    refused(**memory("kind: file"), says="tables[0].memory: the key 'folder' is missing")
    refused(**memory("kind: file, folder: 7"), says="tables[0].memory.folder")
    refused(**memory("kind: disk"), says="tables[0].memory")
    refused(**memory("kind: ram, folder: /data"), says="unknown key 'folder' of kind 'ram'")
