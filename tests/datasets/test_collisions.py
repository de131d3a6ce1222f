from __future__ import annotations

import hashlib

import numpy as np
import pytest

from monolith.config import parse_job
from monolith.config.admission import Always, MinCount
from monolith.datasets.collisions import (
    OWN_ROWS,
    WITH_RULES,
    Areas,
    Run,
    TableSize,
    check_tables,
    expected_lost,
    sizes_of,
    variants,
)
from monolith.datasets.collisions_table import as_dict, claims, gap, plot, rates, table
from monolith.datasets.judging import SHARDS
from monolith.errors import ConfigError

JOB = """
name: x
input: {samples: log://x}
tables:
  - {name: user, dim: 2, admission: {kind: min_count, count: 2}}
  - {name: item, dim: 2}
  - {name: both, dim: 2, features: [a, b]}
  - {name: few, dim: 2, kind: hashed, rows: 5}
"""
IDS = {"user": np.arange(1000), "item": np.arange(5000, 5400)}


@pytest.fixture
def job():
    return parse_job(JOB, "x.yaml")


def test_the_expected_rate_is_that_of_random_numbers():
    rng = np.random.default_rng(0)
    drawn = np.mean([1 - len(np.unique(rng.integers(0, 700, 1000))) / 1000 for _ in range(50)])
    assert expected_lost(1000, 700) == pytest.approx(drawn, abs=0.005)
    assert expected_lost(10, 1) == pytest.approx(0.9)
    assert expected_lost(1, 100) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize(("ids", "left"), [(162_541, 149_970), (59_047, 57_361)])
def test_the_expected_rate_agrees_with_the_papers_mapping(ids, left):
    """The paper's baseline: MD5 of the decimal number, modulo a million, of the users and movies of MovieLens-25M."""
    distinct = {int(hashlib.md5(b"%d" % i).hexdigest(), 16) % 1_000_000 for i in range(ids)}
    assert len(distinct) == left
    assert expected_lost(ids, 1_000_000) == pytest.approx(1 - left / ids, abs=0.001)


def test_variants_differ_in_nothing_but_the_compared_tables(job):
    found = variants(job, IDS, (0.5, 2.0))
    assert list(found) == [OWN_ROWS, "hashed, 2 rows an id", "hashed, 0.5 rows an id", WITH_RULES]
    half = {t.name: t for t in found["hashed, 0.5 rows an id"].tables}
    assert (half["user"].rows, half["item"].rows) == (500, 200)
    assert half["both"] == job.tables[2]
    assert half["user"].optimizer == job.tables[0].optimizer
    assert isinstance(found[OWN_ROWS].tables[0].admission, Always)
    assert isinstance(found[WITH_RULES].tables[0].admission, MinCount)


def test_a_job_without_rules_has_no_further_variant(job):
    assert WITH_RULES not in variants(job, {"item": IDS["item"]}, (1.0,))


def test_measured_collisions_are_about_as_many_as_expected(job):
    sizes = sizes_of(variants(job, IDS, (0.5,))["hashed, 0.5 rows an id"], IDS)
    assert sizes["user"].ids == 1000
    assert sizes["user"].rows == 500
    assert sizes["user"].lost == pytest.approx(sizes["user"].expected, abs=0.03)
    assert sizes_of(variants(job, IDS, (0.5,))[OWN_ROWS], IDS)["user"] == TableSize(1000, None, 0.0, 0.0)


@pytest.mark.parametrize(
    ("name", "says"), [("nobody", "the job has no such table"), ("both", "of a, b"), ("few", "it is hashed")]
)
def test_a_table_that_cannot_be_compared_is_refused(job, name, says):
    with pytest.raises(ConfigError, match=says):
        check_tables(job, [name])


def runs_of(variant: str, aucs: list[float], *, stream: bool = True) -> list[Run]:
    rng = np.random.default_rng(len(variant))

    def areas(auc: float) -> Areas:
        return Areas(auc, (auc + 0.001 * rng.standard_normal(SHARDS)).tolist())

    return [
        Run(
            key="k", data="d", variant=variant, seed=seed, samples=100, num_bytes=1000,
            tables={"user": TableSize(10, None if variant == OWN_ROWS else 5, 0.5, 0.45)},
            epochs=[areas(auc + 0.0001 * seed) for auc in aucs],
            stream=areas(aucs[0] + 0.0001 * seed) if stream else None,
        )
        for seed in range(3)
    ]  # fmt: skip


def test_collisionless_is_said_to_be_above_where_it_is_and_nowhere_else(tmp_path):
    runs = {OWN_ROWS: runs_of(OWN_ROWS, [0.7, 0.75, 0.72]), "hashed": runs_of("hashed", [0.7, 0.71, 0.73])}
    assert gap(runs, "hashed", "best").verdict == "higher"
    assert gap(runs, "hashed", "best").by_seed == pytest.approx([0.02] * 3)
    said = [" ".join(line.split()) for line in claims(runs)]
    assert any(line.startswith("best epoch hashed holds +0.0200") for line in said)
    assert any(line.startswith("epoch 1 hashed does not hold +0.0000") for line in said)
    assert rates(runs) == ["hashed: table user: 10 ids in 5 rows, lost 50.00% (expected 45.00%)"]
    assert table(runs)[0].split() == ["bytes", "epoch", "1", "best", "epoch", "stream"]
    assert as_dict(runs)["variants"]["hashed"]["verdicts"]["best"] == "higher"
    plot(runs, tmp_path / "x.png", "title")
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_samples_without_an_order_of_time_have_no_stream(tmp_path):
    runs = {OWN_ROWS: runs_of(OWN_ROWS, [0.7], stream=False), "hashed": runs_of("hashed", [0.6], stream=False)}
    assert table(runs)[0].split() == ["bytes", "epoch", "1"]
    plot(runs, tmp_path / "x.png", "title")
