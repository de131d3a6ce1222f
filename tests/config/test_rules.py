"""The rules between the parts of a job file, each broken once."""

from __future__ import annotations

import pytest

URLS = "  features: log://build/features\n  actions: log://build/actions\n"


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (URLS, "  features: log://f\n", "job.yaml:2: input: give either both features and actions (to be joined) or"),
        (URLS, "  follow: true\n", "saw none of them"),
        ("  actions:", "  samples: parquet://x\n  actions:", "saw features and actions and samples"),
        (
            "log://build/features",
            "lag://build/features",
            "input.features: unknown scheme 'lag' in 'lag://build/features' (did",
        ),
        (
            "log://build/features",
            "build/features",
            "input.features: 'build/features' is no URL; allowed: log://, kafka://",
        ),
        ("log://build/actions", "log://", "input.actions: 'log://' names no place after log://"),
        ("log://build/actions", "kafka://h:9092", "input.actions: 'kafka://h:9092' names no topic"),
        ("lmdb://build/store", "log://build/store", "store: unknown scheme 'log' in 'log://build/store'"),
        ("  - name: movie", "  - name: user", "job.yaml:9: tables[1].name: the table 'user' is there twice"),
        ("[genres, tags]", "[genres, genres]", "tables[2].features[1]: the feature 'genres' is read twice by"),
        (
            "  - name: genres\n    type",
            "  - name: genre\n    type",
            "no table reads the feature 'genre' (did you mean 'genres'?)",
        ),
        ("name: user", "name: us/er", "tables[0].name: 'us/er' is no name; allowed: letters"),
        ("name: movies", "name: ''", "job.yaml:1: name: '' is no name"),
        (
            "lr: 0.05",
            "schedule: {decay: cosine}",
            "job.yaml:8: tables[0].optimizer.schedule.decay_steps: the decay 'cosine' needs decay_steps",
        ),
        (
            "optimizer: {kind: adagrad, lr: 0.05}",
            "slices: [{columns: 3, optimizer: {kind: ftrl}}]",
            "job.yaml:8: tables[0].slices: the slices have 3 columns in all; allowed: dim columns, 4",
        ),
        (
            "optimizer: {kind: adagrad, lr: 0.05}",
            "slices: [{columns: 4, optimizer: {kind: ftrl, beta: 0}}]",
            "tables[0].slices[0].optimizer.beta: beta and initial_accumulator are both 0",
        ),
        (
            "optimizer: {kind: adagrad, lr: 0.05}",
            "eviction: {kind: lru}",
            "job.yaml:8: tables[0].eviction: the table's limit is one of max_rows and max_bytes; saw none",
        ),
        (
            "optimizer: {kind: adagrad, lr: 0.05}",
            "eviction: {kind: lfu, max_rows: 5, max_bytes: 1000000}",
            "tables[0].eviction: the table's limit is one of max_rows and max_bytes; saw both",
        ),
        (
            "features: [genres, tags]",
            "features: [genres, tags]\n    per_feature: {tag: {expiry: {kind: forever}}}",
            "job.yaml:17: tables[2].per_feature.tag: unknown feature 'tag' (did you mean 'tags'?); the table",
        ),
        (
            "features: [genres, tags]",
            "features: [genres, tags]\n    per_feature: {tags: {}}",
            "tables[2].per_feature.tags: neither admission nor expiry is given",
        ),
        (
            "features: [genres, tags]",
            "features: [genres, tags]\n    shared_ids: true\n    per_feature: {tags: {expiry: {kind: forever}}}",
            "tables[2].per_feature: with shared_ids a row belongs to several features",
        ),
    ],
)
def test_rule_names_the_place_and_what_is_allowed(refused, old, new, says):
    refused(old, new, says=says)


@pytest.mark.parametrize(
    ("sets", "says"),
    [
        (["model.kind=lr"], "tables[0].dim: the model lr takes one weight an id: dim 1; saw 4"),
        (
            ["model.kind=fm", "tables.movie.dim=8"],
            "tables[1].dim: the model fm takes tables of one dim; saw 8, but 'user'",
        ),
        (["tables.0.dim=1", "tables.1.dim=1", "tables.2.dim=1"], "the model deepfm takes a weight and a vector an id"),
        (["tables=[]"], "tables: the list is empty"),
        (["join.dedup_s=10"], "join.dedup_s: dedup_s (10) is shorter than window_s (1800)"),
        (["features=[{name: user}, {name: user}]"], "features[1].name: the feature 'user' is there twice"),
        (
            ["train.group_by=moive"],
            "train.group_by: no table reads the feature 'moive' (did you mean 'movie'?); read: user, movie, genres",
        ),
        (["train.group_by=genres"], "train.group_by: the feature 'genres' is a bag, which names no group"),
        (
            ["input.co_partitioned=true", "input.actions=parquet://x"],
            "input.co_partitioned: actions is parquet://, which one process reads; allowed with it: log, kafka",
        ),
        (["input.dead_letters=parquet://x"], "input.dead_letters: unknown scheme 'parquet'"),
    ],
)
def test_rule_between_sections(refused, sets, says):
    refused(sets=sets, says=says)


@pytest.mark.parametrize(
    "sets", [["model.kind=lr", "tables.0.dim=1", "tables.1.dim=1", "tables.2.dim=1"], ["model.kind=fm"]]
)
def test_each_model_has_dims_that_it_takes(parse, sets):
    assert parse(sets=sets).model.kind in ("lr", "fm")


def test_the_default_group_may_be_missing(parse):
    assert parse("  - name: user\n", "  - name: visitor\n").train.group_by == "user"


def test_samples_alone_are_an_input(parse):
    assert parse(URLS, "  samples: parquet://ratings.parquet\n").input.samples == "parquet://ratings.parquet"
