"""The matrix: one cell is one fit of one model with one kind of table on one data set, and the job that it runs.

A cell's key is a hash of the whole job and of the data, so whatever changes a result makes another cell.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import xxhash

from monolith.config import JobConfig
from monolith.config.document import path_text
from monolith.config.load import job_json, parse_job
from monolith.config.rules import broken_rules
from monolith.datasets.sets.about import About
from monolith.datasets.sets.job_text import features_of
from monolith.errors import ConfigError
from monolith.offline.layout import SEARCHED, laid_out, needs_bytes
from monolith.optembed.compression import ALPHA, THRESHOLD_LR, Options

MODELS = ("lr", "fm", "deepfm", "widedeep", "mlp", "dcnv2")
RIVAL_MODELS = ("lr", "fm", "deepfm", "dcnv2")  # that deepctr-torch has too
LARGE = 150_000  # training samples from which on batches are of 4,096

OURS, DEEPCTR = "monolith", "deepctr-torch"
SEARCH = Options(0, ALPHA, THRESHOLD_LR, generations=10, population=20, search_samples=50_000)  # of kind `optembed`


class Prepared(NamedTuple):
    """A prepared data set."""

    about: About
    folder: Path
    name: str = ""  # in tables, where that of `about` is another set's too

    def __str__(self) -> str:
        return self.name or self.about.name


class Settings(msgspec.Struct, frozen=True):
    """What all cells of a matrix have in common; the defaults are those of the published baselines."""

    dim: int = 16  # of factors; `fm` and `deepfm` have a weight beside them, `lr` has the weight alone
    epochs: int | None = None  # None: 20, and 60 of `lr` on less than 150,000 training samples, which needs more
    patience: int = 2
    batch_size: int | None = None  # None: 4,096, and 1,024 of less than 150,000 training samples
    sets: list[str] = []  # a.b=c over the job


class Cell(NamedTuple):
    """One fit."""

    data: str
    model: str
    kind: str
    budget: int | None  # bytes of all tables, at most; None: what the kind takes
    seed: int
    trainer: str
    job: JobConfig
    key: str

    def __str__(self) -> str:
        size = "" if self.budget is None else f", {self.budget:,} bytes"
        other = "" if self.trainer == OURS else f", {self.trainer}"
        return f"{self.data}, {self.model}, {self.kind}{size}, seed {self.seed}{other}"


class Matrix(NamedTuple):
    """What is asked for."""

    models: Sequence[str]
    kinds: Sequence[str]
    budgets: Sequence[int]
    seeds: Sequence[int]
    trainers: Sequence[str] = (OURS,)


def told_apart(sets: Sequence[Prepared]) -> list[Prepared]:
    """Each folder once, and sets of one name with their folders behind it, so that no table takes one for the other."""
    once = list({one.folder.resolve(): one for one in reversed(sets)}.values())[::-1]
    names = [one.about.name for one in once]
    return [
        one._replace(name=f"{one.about.name} ({one.folder})") if names.count(one.about.name) > 1 else one
        for one in once
    ]


def cells_of(prepared: Prepared, matrix: Matrix, settings: Settings) -> Iterator[Cell]:
    """Every cell on one set, seed by seed. Raises ConfigError for one that cannot be fitted, before any fit."""
    for seed, model, kind in product(matrix.seeds, matrix.models, matrix.kinds):
        for budget in _budgets(kind, matrix.budgets):
            job = job_of(prepared, model, kind, budget, seed, settings)
            yield _cell(prepared, model, kind, budget, OURS, job)
    if DEEPCTR in matrix.trainers:
        for seed, model in product(matrix.seeds, matrix.models):
            _check_rival(prepared.about, model)
            job = job_of(prepared, model, "collisionless", None, seed, settings)
            yield _cell(prepared, model, "full", None, DEEPCTR, job)


def _check_rival(about: About, model: str) -> None:
    """Raises ConfigError for what deepctr-torch is not compared on."""
    if model not in RIVAL_MODELS:
        raise ConfigError(f"deepctr-torch is compared on {', '.join(RIVAL_MODELS)}; not on {model}")
    if bags := [feature.name for feature in about.features if feature.bag]:
        raise ConfigError(
            f"deepctr-torch is run on features with one value a sample; {about.name} has several of {', '.join(bags)}"
        )


def _check_sets(job: JobConfig, model: str, seed: int) -> None:
    """Raises ConfigError where a setting over the job made another cell of it than its name says."""
    if job.model.kind != model:
        raise ConfigError(f"--set makes the model {model} {job.model.kind}: give models by --models")
    if job.seed != seed or any(table.seed != seed for table in job.tables):
        raise ConfigError("--set gives a seed: cells have seeds 0, 1, ..., as many as --seeds says")
    if kinds := sorted({table.kind for table in job.tables} - {"collisionless"}):
        raise ConfigError(f"--set makes tables {', '.join(kinds)}: give kinds by --kinds")


def _check_validation(about: About, job: JobConfig) -> None:
    """Raises ConfigError where early stopping would go by an AUC that does not exist."""
    valid = about.parts["valid"]
    if job.fit.metric in (None, "auc", "gauc") and not 0 < valid.positives < valid.samples:
        raise ConfigError(
            f"the validation part of {about.name} has {valid.samples:,} samples, {valid.positives:,} of them positive: "
            f"an AUC needs labels of both kinds; split the set otherwise, or give --set fit.metric=logloss"
        )


def _budgets(kind: str, budgets: Sequence[int]) -> Sequence[int | None]:
    """A kind that has all rows it needs is fitted once, beside those that are held to the budgets."""
    if not needs_bytes(kind):
        return [None]
    if not budgets:
        raise ConfigError(f"kind {kind} needs a size: give --bytes")
    return list(budgets)


def _cell(prepared: Prepared, model: str, kind: str, budget: int | None, trainer: str, job: JobConfig) -> Cell:
    data = msgspec.json.encode([msgspec.structs.replace(prepared.about, title="", terms=""), trainer])
    if kind == SEARCHED:
        data += msgspec.json.encode(SEARCH)
    key = f"{xxhash.xxh3_64_intdigest(data + job_json(job)):016x}"
    if kind == SEARCHED:
        key = f"{key}-{budget}"  # which its job, in which rows and columns are not found yet, does not tell
    return Cell(str(prepared), model, kind, budget, job.seed, trainer, job, key)


def job_of(prepared: Prepared, model: str, kind: str, budget: int | None, seed: int, settings: Settings) -> JobConfig:
    """The job of a cell; where its streams and its state are is left open. Raises ConfigError."""
    about = prepared.about
    if model not in MODELS:
        raise ConfigError(f"there is no model {model!r} in this benchmark; allowed: {', '.join(MODELS)}")
    base = parse_job(msgspec.json.encode(_settings(about, model, seed, settings)).decode(), "bench", settings.sets)
    _check_sets(base, model, seed)
    _check_validation(about, base)
    values = {feature.name: max(1, feature.values + bool(feature.missing)) for feature in about.features}
    job = msgspec.structs.replace(base, tables=laid_out(kind, base.tables, values, budget))
    if broken := [f"{path_text(keys)}: {text}" for keys, text in broken_rules(job)]:
        raise ConfigError(f"{model} does not go with tables of kind {kind}: {'; '.join(broken)}")
    return job


def _settings(about: About, model: str, seed: int, settings: Settings) -> dict[str, Any]:
    large = about.parts["train"].samples >= LARGE
    size = settings.batch_size or (4096 if large else 1024)
    epochs = settings.epochs or (20 if large or model != "lr" else 60)
    rows = {
        "optimizer": {"kind": "adam", "lr": 0.001, "steps": "table"},
        "initializer": {"kind": "truncated_normal", "std": 0.01},
        "seed": seed,
    }
    layers = {} if model in ("lr", "fm") else {"hidden": [256, 128, 64], "dropout": 0.1}
    return {
        "name": "bench",
        "input": {"samples": "memory://samples"},
        "features": features_of(about),
        "tables": [
            {"name": name, "features": [feature], "dim": dim, **rows}
            for name, feature, dim in _tables([one.name for one in about.features], model, settings.dim)
        ],
        "model": {"kind": model, "embedding_l2": 1e-6, **layers},
        "dense_optimizer": {"kind": "adam", "lr": 0.001},
        "train": {"batch_size": size, "group_by": about.group},
        "fit": {"epochs": epochs, "patience": settings.patience},
        "seed": seed,
    }


def _tables(features: Sequence[str], model: str, dim: int) -> list[tuple[str, str, int]]:
    """Name, feature and width of each table that the model reads."""
    width = {"lr": 1, "fm": dim + 1, "deepfm": dim + 1}.get(model, dim)
    tables = [(name, name, width) for name in features]
    if model == "widedeep":
        tables += [(f"{name}.weight", name, 1) for name in features]
    return tables
