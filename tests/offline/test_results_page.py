"""docs/results.md: made of what is kept beside it, and made anew by a short run."""

from __future__ import annotations

import importlib.util
import json
import math
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from monolith import cli
from monolith.offline.cells import Prepared

CHECKOUT = Path(__file__).resolve().parents[2]
SCRIPT = CHECKOUT / "bench" / "results.py"


def script():
    spec = importlib.util.spec_from_file_location("results_page", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_of_results_is_what_their_figures_give():
    report = json.loads((CHECKOUT / "docs/results.json").read_text())
    report["baselines"] = json.loads((CHECKOUT / "bench/baselines.json").read_text())
    assert (CHECKOUT / "docs/results.md").read_text() == script().page(report)
    assert all((CHECKOUT / "docs" / f"results-{data}.svg").is_file() for data in script().plotted(report))
    pictures = [run["plot"] for name in ("online", "collisions") for run in report[name] if "plot" in run]
    assert pictures
    assert all((CHECKOUT / "docs" / picture).stat().st_size < 200_000 for picture in pictures)


def cell(kind: str, budget: int | None, seed: int, auc: float, **more: object) -> dict:
    names = {"data": "set", "model": "dcnv2", "trainer": "monolith", "command": "monolith bench ctr"}
    sizes = {"valid_auc": 0.5, "bytes": budget or 10_000, "samples_s": 1.0, "test_samples": 99}
    return {**names, **sizes, "kind": kind, "budget": budget, "seed": seed, "auc": auc, **more}


def hashed(budget: int, seed: int, auc: float) -> list[dict]:
    """In three divisions, alike."""
    return [cell(kind, budget, seed, auc) for kind in ("hashed", "hashed-sqrt", "hashed-equal")]


def line_of(section) -> list[str]:
    """The fields of the only line about the set."""
    (line,) = (line for line in section if line.startswith("| set |"))
    return [word.strip() for word in line.strip("|").split("|")]


@pytest.mark.parametrize(
    ("gains", "said"),
    [
        ((0.04, 0.05, 0.06), "yes, with every seed"),
        ((0.02, 0.05, 0.06), "yes in the mean, not with every seed"),
        ((0.04, 0.05), "not claimed: fewer than three seeds"),
        ((0.01, 0.02, 0.03), "no"),
    ],
)
def test_the_claim_is_judged_at_the_smallest_number_of_bytes(gains, said):
    cells = [one for size in (1000, 9000) for seed in range(3) for one in hashed(size, seed, 0.7)]
    cells += [cell("unified", 1000, seed, 0.7 + gain) for seed, gain in enumerate(gains)]
    cells += [cell("unified", 9000, seed, 0.5) for seed in range(3)]
    found = line_of(script().claim(cells))
    assert found[:4] == ["set", "dcnv2", "2", "1,000"]
    assert found[-2:] == [str(len(gains)), said]


def test_the_claim_is_made_against_the_division_that_the_validation_part_chose_and_not_the_test_part():
    cells = [cell("unified", 1000, seed, 0.80) for seed in range(3)]
    for kind, valid, auc in (("hashed", 0.6, 0.70), ("hashed-sqrt", 0.8, 0.75), ("hashed-equal", 0.7, 0.79)):
        cells += [cell(kind, 1000, seed, auc, valid_auc=valid) for seed in range(3)]
    found = line_of(script().claim(cells))
    assert found[4:] == [
        "+0.1000 ± 0.0000 (+0.1000, +0.1000)", "yes, with every seed",
        "+0.0500 ± 0.0000 (+0.0500, +0.0500)", "by roots", "3", "yes, with every seed",
    ]  # fmt: skip
    one_division = [one for one in cells if one["kind"] in ("hashed", "unified")]
    assert line_of(script().claim(one_division))[-1] == "not claimed: one division was measured"


def test_cells_of_other_settings_are_not_compared():
    own = "monolith bench ctr --dim 4"
    cells = [cell("hashed", 1000, 0, 0.7), cell("unified", 1000, 0, 0.9, command=own)]
    cells += [cell("hashed", 1000, 0, 0.8, command=own)]
    found = line_of(script().same_bytes(cells))
    assert found[5] == "+0.1000"


@pytest.mark.parametrize(
    ("taken", "change", "said"),
    [
        (5_000, 0.0, "yes, with every seed"),
        (5_001, 0.0, "no"),
        (4_000, -0.0012, "no"),
        (4_000, -0.0009, "yes in the mean, not with every seed"),
    ],
)
def test_optembed_is_held_to_half_of_the_bytes_and_a_thousandth_of_auc(taken, change, said):
    cells = [cell("collisionless", None, seed, 0.8) for seed in range(3)]
    cells += [cell("optembed", 5_001, seed, 0.8 + change + (seed - 1) * 0.0002, bytes=taken) for seed in range(3)]
    assert line_of(script().searched(cells))[-1] == said


def test_the_rival_stands_beside_ours_of_the_same_seeds():
    cells = [cell("collisionless", None, seed, 0.8 + seed / 100, samples_s=50.0) for seed in range(3)]
    cells += [cell("full", None, seed, 0.79 + seed / 100, trainer="deepctr-torch", samples_s=9.0) for seed in (1, 2)]
    found = line_of(script().rivals(cells))
    assert found == [
        "set", "dcnv2", "99", "0.8150 ± 0.0071", "0.8050 ± 0.0071", "+0.0100 ± 0.0000 (+0.0100, +0.0100)", "2",
        "50", "9",
    ]  # fmt: skip


def test_without_anything_measured_there_is_no_page(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--out", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "nothing was measured" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_run_of_an_older_version_is_named(tmp_path: Path):
    (tmp_path / "online.json").write_text('{"data": "ml-100k", "ways": {}}')
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--online", str(tmp_path), "--out", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "online.json lacks command, machine, time" in done.stderr


def test_a_short_run_of_streams_and_sizes_makes_their_sections(planted: Prepared, tmp_path: Path):
    small = ["--set", "model.embedding_l2=0", "--set", "fit.epochs=1", "--generations", "1", "--population", "2"]
    words = [str(CHECKOUT / "bench/optembed.py"), "--data", "planted", "--from", str(planted.folder), "--seeds", "1"]
    synthetic = ["--data", "synthetic", "--events", "1500", "--seeds", "1"]
    online = ["bench", "online", *synthetic, "--syncs", "5", "--dir", str(tmp_path / "online")]
    collisions = ["bench", "collisions", *synthetic, "--sizes", "0.5", "--epochs", "1", "--dir", str(tmp_path / "c")]
    cafe = [str(CHECKOUT / "bench/cafe.py"), "--samples", "2000", "--seeds", "2", "--json", str(tmp_path / "cafe.json")]
    (tmp_path / "planted").symlink_to(planted.folder)
    optembed = [*words, "--dir", str(tmp_path), *small, "--json", str(tmp_path / "optembed.json")]
    page = [str(SCRIPT), "--online", str(tmp_path / "online"), "--collisions", str(tmp_path / "c")]
    page += ["--cafe", str(tmp_path / "cafe.json"), "--optembed", str(tmp_path / "optembed.json")]
    for command in (
        ["-m", "monolith", *online],
        ["-m", "monolith", *collisions],
        cafe,
        optembed,
        [*page, "--out", str(tmp_path)],
    ):
        done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False, timeout=200)
        assert done.returncode == 0, done.stderr[-2000:]
    text = (tmp_path / "results.md").read_text()
    assert str(tmp_path) not in text
    for said in ("| `online1 1/5` | every ", "| hashed, 0.5 rows an id | ", "| 0.1% | ", "Within 50% of the bytes: "):
        assert said in text
    assert all((tmp_path / found).is_file() for found in re.findall(r"\]\((results-.*\.png)\)", text))
    assert len(re.findall("monolith bench (?:online|collisions) --data synthetic", text)) == 2


@pytest.mark.skipif(find_spec("deepctr_torch") is None, reason="deepctr-torch is not installed: extra `bench`")
def test_a_short_run_of_cells_and_speed_makes_the_page(planted: Prepared, tmp_path: Path):
    words = ["--data", str(planted.folder), "--dir", str(tmp_path / "ctr"), "--seeds", "2", "--epochs", "1"]
    words += ["--dim", "4", "--set", "model.hidden=[8]", "--models", "mlp", "--kinds", "collisionless,hashed,unified"]
    with pytest.raises(SystemExit) as ended:
        cli.main(["bench", "ctr", *words, "--bytes", "9k"])
    assert ended.value.code == 0
    speed = [sys.executable, str(CHECKOUT / "bench/offline.py"), "--models", "fm", "--rows", "500", "--features", "3"]
    speed += ["--batch", "100", "--ids", "50", "--rounds", "1", "--json", str(tmp_path / "speed.json")]
    page = [sys.executable, str(SCRIPT), "--ctr", str(tmp_path / "ctr"), "--speed", str(tmp_path / "speed.json")]
    for command in (speed, [*page, "--out", str(tmp_path)]):
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)
        assert done.returncode == 0, done.stderr[-2000:]
    text = (tmp_path / "results.md").read_text()
    assert "| planted | mlp | 9,000 | unified |" in text
    assert "| fm | " in text.split("## Speed of training")[1]
    assert str(tmp_path) not in text
    picture = (tmp_path / "results-planted.svg").read_bytes()
    subprocess.run([sys.executable, SCRIPT, "--out", tmp_path], check=True)
    assert (tmp_path / "results-planted.svg").read_bytes() == picture


def test_cells_without_an_auc_are_shown_and_compared_with_nothing():
    row = cell("collisionless", None, 0, math.nan, gauc=math.nan, logloss=0.7, calibration=math.nan, load=1.0, epochs=1)
    job = '{"tables": [{}], "model": {}, "dense_optimizer": {}, "fit": {"epochs": 1, "patience": 1, "batch_size": 1}}'
    row |= {"job": job, "time": "2026-01-01T00:00:00Z", "machine": "M"}
    rows = [script().short(row | {"kind": kind, "trainer": trainer}) for kind, trainer in
            (("collisionless", "monolith"), ("full", "deepctr-torch"), ("optembed", "monolith"))]  # fmt: skip
    page = script().page({"cells": rows, "speed": None, "baselines": {"auc": {}, "source": "-"}})
    assert "| set | dcnv2 | deepctr-torch | 10,000 | - | - | 0.7000 | - | 1 | 1 |" in page
    assert "nan" not in page
    assert "Beside deepctr-torch" not in page


def test_a_folder_without_results_is_named(tmp_path: Path):
    for option, name in (("--ctr", "results.parquet"), ("--online", "online.json")):
        words = [sys.executable, str(SCRIPT), option, str(tmp_path / "none"), "--out", str(tmp_path)]
        ran = subprocess.run(words, capture_output=True, text=True, check=False)
        assert ran.returncode == 1
        assert name in ran.stderr
        assert "Traceback" not in ran.stderr
