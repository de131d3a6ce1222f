from __future__ import annotations

import numpy as np
import pytest

from monolith.datasets.judging import MEASURES, SHARDS, Score
from monolith.datasets.online_claims import (
    Difference,
    Spread,
    difference,
    half_width,
    intervals_of,
    online_above_batch,
    shorter_is_no_worse,
)
from monolith.datasets.online_runs import Run
from monolith.datasets.online_table import as_dict, claims, measured, plot, table

RNG = np.random.default_rng(0)


def score(mean: float, shard_sd: float = 0.001) -> Score:
    shards = (mean + shard_sd * RNG.standard_normal(SHARDS)).tolist()
    return Score(
        dict.fromkeys(MEASURES, mean) | {"ranking": None},
        dict.fromkeys(MEASURES, shards) | {"ranking": [None] * SHARDS},
    )


def runs(seeds: int, shard_sd: float = 0.001, **means: float) -> list[Run]:
    """Runs whose AUCs differ a little by seed."""
    default = {"frozen": 0.70, "frozen1": 0.70, "online1": 0.75, "online1 1/5": 0.72, "warm": 0.75, "warm 1/5": 0.72}
    ways = default | {name.replace("_", " ").replace("of", "1/"): value for name, value in means.items()}
    return [
        Run(
            key="k", data="d", settings=[], seed=seed, samples=1000, positives=500, trained=4000, epochs=2 + seed,
            steps=50, hours=100.0, scores={
                way: score(mean + 0.0001 * seed * (way == "online1"), shard_sd) for way, mean in ways.items()
            },
        )
        for seed in range(seeds)
    ]  # fmt: skip


def test_the_interval_of_a_mean_is_students():
    assert half_width([1.0, 2.0, 3.0]) == pytest.approx(4.303 / 3**0.5)
    assert half_width([1.0]) == float("inf")


@pytest.mark.parametrize(
    ("seeds", "shards", "verdict"),
    [
        ([0.01, 0.011, 0.012], [0.01, 0.02, 0.015, 0.01], "higher"),
        ([-0.01, -0.011, -0.012], [-0.01, -0.02, -0.015, -0.01], "lower"),
        ([0.01, -0.011, 0.012], [0.01, 0.02, 0.015, 0.01], "open"),  # seeds disagree
        ([0.01, 0.011, 0.012], [0.1, -0.1, 0.02, 0.02], "open"),  # it hangs on some shards
        ([0.01, 0.011, 0.012], [], "open"),
        ([0.01, 0.011], [0.01, 0.02, 0.015, 0.01], "too few seeds"),
    ],
)
def test_a_difference_is_there_where_seeds_and_shards_carry_it(seeds, shards, verdict):
    assert Difference(seeds, shards).verdict == verdict


def test_differences_are_paired_by_seed_and_shard():
    found = difference(runs(3), "online1", "frozen1", "auc")
    assert found.by_seed == pytest.approx([0.05, 0.0501, 0.0502])
    assert len(found.by_shard) == SHARDS
    assert difference(runs(3), "online1", "frozen1", "ranking") is None


def test_online_above_batch_is_claimed_where_it_is_and_nowhere_else():
    assert [gain.verdict for _, gain in online_above_batch(runs(3), "auc")] == ["higher", "higher"]
    said = "\n".join(claims(runs(3, online1=0.70, warm=0.69)))
    assert "AUC      does not hold  online1 - frozen1 +0.0001" in said
    assert "AUC      does not hold  warm - frozen -0.0100" in said
    assert "it is the other way round" in said
    assert "not claimed" in "\n".join(claims(runs(2)))


def test_shorter_intervals_are_no_worse_only_if_none_is_below_a_longer_one():
    steady = runs(3, online1_of50=0.73)
    assert intervals_of(steady, "online1") == ["online1 1/5", "online1 1/50", "online1"]
    assert shorter_is_no_worse(steady, "online1", "auc")[0] == "higher"
    bent = shorter_is_no_worse(runs(3, online1_of50=0.71), "online1", "auc")
    assert bent[0] == "lower"
    assert "online1 1/50 is below online1 1/5 by -0.0100" in bent[1]
    assert shorter_is_no_worse(runs(3, online1_of5=0.75), "online1", "auc")[0] == "open"


def test_the_table_has_a_line_for_each_way_and_interval_with_spread():
    lines = table(runs(3))
    assert lines[0].split() == ["AUC", "GAUC", "in", "lists"]
    assert [line[:15].strip() for line in lines[1:]] == [
        "frozen",
        "warm 1/5",
        "warm",
        "frozen1",
        "online1 1/5",
        "online1",
    ]
    assert "2 to 4 epochs" in lines[1]
    assert str(Spread.of([0.75, 0.7501, 0.7502])) in lines[-1]
    assert "every 200 samples, 20.0 h of event time" in lines[5]


def test_what_is_not_measured_is_left_out(tmp_path):
    assert measured(runs(3)) == ["auc", "gauc", "lists"]
    assert as_dict(runs(3))["ways"]["online1"]["ranking"] is None
    assert as_dict(runs(3))["gains"]["warm - frozen"]["auc"]["verdict"] == "higher"
    plot(runs(3), tmp_path / "online.png", "title")
    assert (tmp_path / "online.png").read_bytes().startswith(b"\x89PNG")
