"""`monolith bench ctr` as a user types it, on a small planted set."""

from __future__ import annotations

import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import msgspec
import pyarrow.parquet as pq
import pytest

from monolith import cli
from monolith.datasets.sets.about import PartAbout
from monolith.errors import ConfigError
from monolith.growing import alone
from monolith.offline import fit_cell
from monolith.offline.cells import DEEPCTR, Matrix, Prepared, Settings, cells_of
from monolith.offline.optembed_cell import fit_optembed
from monolith.offline.report import lines_of, table
from monolith.offline.results import WRITES, Results
from monolith.offline.samples import samples_of

SMALL = ("--seeds", "2", "--epochs", "2", "--dim", "4", "--set", "model.hidden=[8]", "--batch", "256")


def run(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    with pytest.raises(SystemExit) as ended:
        cli.main(["bench", "ctr", *words])
    said = capsys.readouterr()
    assert ended.value.code == code, said.err
    return said.out if code == 0 else said.err


def test_a_matrix_is_fitted_once_and_grows_by_what_is_missing(planted: Prepared, tmp_path: Path, capsys, monkeypatch):
    words = ("--data", str(planted.folder), "--dir", str(tmp_path), *SMALL, "--models", "deepfm")
    said = run(capsys, *words, "--kinds", "collisionless,hashed", "--bytes", "8k")
    assert "4 cells, 0 of them done before" in said
    assert "± " in said
    rows = pq.read_table(tmp_path / "results.parquet").to_pylist()
    assert [(row["kind"], row["budget"], row["seed"]) for row in rows] == [
        ("collisionless", None, 0), ("hashed", 8000, 0), ("collisionless", None, 1), ("hashed", 8000, 1),
    ]  # fmt: skip
    assert all(row["bytes"] <= 8000 for row in rows if row["kind"] == "hashed")
    assert all(0.4 < row["auc"] <= planted.about.best_auc for row in rows)
    assert all(row["command"].startswith("monolith") and row["machine"] and row["samples_s"] > 0 for row in rows)
    assert (tmp_path / "pareto.png").stat().st_size > 1000
    assert (tmp_path / "results.md").read_text() in said

    real, fitted = fit_cell.fit_cell, []
    monkeypatch.setattr(fit_cell, "fit_cell", lambda cell, *rest: (fitted.append(str(cell)), real(cell, *rest))[1])
    said = run(capsys, *words, "--kinds", "collisionless,hashed", "--bytes", "8k,12k")
    assert "6 cells, 4 of them done before" in said
    assert fitted == [f"planted, deepfm, hashed, 12,000 bytes, seed {seed}" for seed in (0, 1)]


def test_optembed_searches_within_the_bytes_and_the_sizes_share_a_supernet(planted: Prepared, tmp_path: Path, capsys):
    words = ("--data", str(planted.folder), "--dir", str(tmp_path), *SMALL, "--seeds", "1", "--kinds", "optembed")
    run(capsys, *words, "--bytes", "5k,10k")
    rows = Results(tmp_path).rows
    assert [row["bytes"] <= row["budget"] for row in rows] == [True, True]
    assert all(row["auc"] > 0.5 and row["samples_s"] > 0 for row in rows)
    assert rows[0]["rows"] < rows[1]["rows"] or rows[0]["auc"] != rows[1]["auc"]
    (kept,) = (tmp_path / "optembed").iterdir()
    assert [path.name for path in kept.iterdir()] == ["supernet"]
    assert "2 cells, 2 of them done before" in run(capsys, *words, "--bytes", "5k,10k")
    assert "the smallest possible is" in run(capsys, *words, "--bytes", "10", code=1)


@pytest.mark.parametrize("at", ["search", "epoch 2"])
def test_a_cell_of_kind_optembed_goes_on_where_it_was_interrupted(planted: Prepared, tmp_path: Path, at: str):
    settings = Settings(dim=4, epochs=2, batch_size=256, sets=["model.hidden=[8]"])
    (cell,) = cells_of(planted, Matrix(["deepfm"], ["optembed"], [5000], [0]), settings)
    parts = samples_of(planted, cell.job, lambda *_: None)
    whole = fit_optembed(cell, parts, tmp_path / "whole", lambda *_: None)
    told: list[str] = []

    def stop(what: str, done: int, total: int) -> None:
        told.append(what)
        if what == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_optembed(cell, parts, tmp_path / "cut", stop)
    before, told[:] = set(told), []
    again = fit_optembed(cell, parts, tmp_path / "cut", lambda what, *_: told.append(what))
    assert again._replace(samples_s=0, seconds=0) == whole._replace(samples_s=0, seconds=0)
    assert "epoch 1" in before
    assert told.index("epoch 2" if at == "epoch 2" else "search") < told.index("epoch 1")


def test_the_same_cell_gives_the_same_scores(planted: Prepared, tmp_path: Path, capsys):
    words = ("--data", str(planted.folder), *SMALL, "--seeds", "1", "--models", "dcnv2")
    for name in ("a", "b"):
        run(capsys, *words, "--dir", str(tmp_path / name))
    one, other = (Results(tmp_path / name).rows[0] for name in ("a", "b"))
    assert [one[name] for name in ("key", "auc", "logloss", "bytes")] == [
        other[name] for name in ("key", "auc", "logloss", "bytes")
    ]


def test_a_budget_that_cannot_be_kept_stops_before_any_fit(planted: Prepared, tmp_path: Path, capsys):
    words = ("--data", str(planted.folder), "--dir", str(tmp_path / "out"), "--kinds", "collisionless,hashed")
    assert "the smallest possible are" in run(capsys, *words, "--bytes", "10", code=1)
    refused = run(capsys, *words[:-1], "unified", "--models", "fm", "--bytes", "8k", code=1)
    assert "fm does not go with tables of kind unified" in refused
    refused = run(capsys, *words[:-1], "unified", "--models", "lr", "--bytes", "8k", code=1)
    assert "no table is left to be unified; take a model" in refused
    assert "kind hashed needs a size: give --bytes" in run(capsys, *words, code=1)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ("--kinds", "bloom"),
            "--kinds bloom: allowed are collisionless, hashed, hashed-sqrt, hashed-equal, qr, cafe, unified",
        ),
        (("--models", "xdeepfm"), "no model 'xdeepfm' in this benchmark; allowed: lr, fm"),
        (("--models", ","), "--models names nothing"),
        (("--seeds", "0"), "--seeds 0: allowed is 1 or more"),
        (("--set", "model.dropuot=1"), "dropuot"),
        (("--set", "model.kind=mlp"), "--set makes the model deepfm mlp: give models by --models"),
        (("--set", "seed=5"), "--set gives a seed: cells have seeds 0, 1, ..., as many as --seeds says"),
        (("--set", "tables.*.kind=optembed"), "--set makes tables optembed: give kinds by --kinds"),
    ],
)
def test_what_cannot_be_is_refused_by_name(planted: Prepared, tmp_path: Path, capsys, words, says):
    assert says in run(capsys, "--data", str(planted.folder), "--dir", str(tmp_path), *words, code=1)


def test_a_set_that_is_not_prepared_is_named(tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setenv("MONOLITH_DATA", str(tmp_path))
    assert "no prepared data set: make one with `monolith data prepare`" in run(capsys, "--data", "ml-1m", code=1)


def test_a_damaged_file_of_results_is_named_and_left(planted: Prepared, tmp_path: Path, capsys):
    (tmp_path / "results.parquet").write_bytes(b"no")
    words = ("--data", str(planted.folder), "--dir", str(tmp_path), *SMALL)
    assert "holds no results of this benchmark" in run(capsys, *words, code=1)
    assert (tmp_path / "results.parquet").read_bytes() == b"no"


def test_damaged_samples_are_named_with_their_file(planted: Prepared, tmp_path: Path, capsys):
    (cell,) = cells_of(planted, Matrix(["deepfm"], ["collisionless"], [], [0]), Settings(epochs=1))
    mine = planted._replace(folder=tmp_path / "set")
    shutil.copytree(planted.folder, mine.folder, ignore=shutil.ignore_patterns("samples"))
    path = samples_of(mine, cell.job, lambda *_: None).valid
    path.write_bytes(path.read_bytes()[:-9])
    said = run(capsys, "--data", str(mine.folder), "--dir", str(tmp_path / "out"), "--epochs", "1", code=1)
    assert f"{path}, samples that were kept: a batch of" in said
    assert "remove its folder to have the streams read anew" in said


def test_two_processes_do_not_add_to_one_file(planted: Prepared, tmp_path: Path, capsys):
    with alone(tmp_path, WRITES):
        said = run(capsys, "--data", str(planted.folder), "--dir", str(tmp_path), *SMALL, code=1)
    assert f"another process adds to the results in {tmp_path}" in said


def test_whatever_changes_a_result_makes_another_cell(planted: Prepared):
    matrix = Matrix(["fm"], ["collisionless"], [], [0])
    keys = {
        cell.key
        for settings in (Settings(), Settings(dim=8), Settings(epochs=3), Settings(sets=["dense_optimizer.lr=0.01"]))
        for cell in cells_of(planted, matrix, settings)
    }
    other = Prepared(planted.about.__class__(**{**_fields(planted), "files": {"x": "y"}}), planted.folder)
    keys |= {cell.key for cell in cells_of(other, matrix, Settings())}
    assert len(keys) == 5


def _fields(prepared: Prepared) -> dict[str, object]:
    return {name: getattr(prepared.about, name) for name in prepared.about.__struct_fields__}


def test_cells_that_come_to_the_same_tables_are_fitted_once_and_stand_under_both_names(
    planted: Prepared, tmp_path: Path, capsys
):
    words = ("--data", str(planted.folder), "--dir", str(tmp_path), *SMALL, "--seeds", "1", "--bytes", "50M,60M")
    said = run(capsys, *words, "--kinds", "hashed,hashed-equal")
    assert "2/4  planted, deepfm, hashed, 60,000,000 bytes, seed 0: the same tables as a cell that is done" in said
    rows = Results(tmp_path).rows
    assert [(row["kind"], row["budget"]) for row in rows[:2]] == [("hashed", 50_000_000), ("hashed", 60_000_000)]
    assert rows[0]["auc"] == rows[1]["auc"]
    assert said.count("| planted | deepfm | hashed") == 4
    assert "4 cells, 4 of them done before" in run(capsys, *words, "--kinds", "hashed,hashed-equal")


def test_two_sets_of_one_name_are_told_apart_and_one_set_is_fitted_once(planted: Prepared, tmp_path: Path, capsys):
    other = tmp_path / "other"
    shutil.copytree(planted.folder, other, ignore=shutil.ignore_patterns("samples"))
    about = msgspec.structs.replace(planted.about, files={"another": "one"})
    (other / "about.json").write_bytes(msgspec.json.encode(about))
    words = ("--dir", str(tmp_path / "out"), *SMALL, "--seeds", "1")
    run(capsys, "--data", f"{planted.folder},{planted.folder}/", *words)
    assert len(Results(tmp_path / "out").rows) == 1
    said = run(capsys, "--data", f"{planted.folder},{other}", *words)
    assert "2 cells, 1 of them done before" in said
    lines = [line for line in said.splitlines() if line.startswith("| planted")]
    assert [line.split("|")[1].strip() for line in lines] == [f"planted ({planted.folder})", f"planted ({other})"]
    assert all(line.endswith("| 1 |") for line in lines)


def test_a_validation_part_of_one_kind_of_label_is_refused_before_any_fit(planted: Prepared):
    parts = {**planted.about.parts, "valid": PartAbout(600, 0)}
    one_kind = Prepared(msgspec.structs.replace(planted.about, parts=parts), planted.folder)
    matrix = Matrix(["fm"], ["collisionless"], [], [0])
    with pytest.raises(ConfigError, match="validation part of planted has 600 samples, 0 of them positive"):
        list(cells_of(one_kind, matrix, Settings()))
    assert list(cells_of(one_kind, matrix, Settings(sets=["fit.metric=logloss"])))


def test_what_deepctr_torch_cannot_do_is_refused_before_any_fit(planted: Prepared, tmp_path: Path, capsys, monkeypatch):
    bag = msgspec.structs.replace(planted.about.features[0], bag=True)
    bags = Prepared(msgspec.structs.replace(planted.about, features=[bag]), planted.folder)
    with pytest.raises(ConfigError, match="one value a sample; planted has several of user"):
        list(cells_of(bags, Matrix(["fm"], [], [], [0], (DEEPCTR,)), Settings()))
    monkeypatch.setitem(sys.modules, "deepctr_torch", None)
    words = ("--data", str(planted.folder), "--dir", str(tmp_path / "out"), "--against", "deepctr")
    assert "pip install 'monolith-recsys[bench]'" in run(capsys, *words, code=1)
    assert not (tmp_path / "out").exists()


def test_the_table_has_mean_and_standard_deviation_over_seeds():
    row = {"data": "d", "model": "fm", "kind": "hashed", "budget": 9, "trainer": "monolith", "bytes": 8, "gauc": None}
    rest = {"logloss": 0.5, "calibration": 1.0, "samples_s": 1234.0}
    rows = [row | rest | {"auc": auc, "job": f'{{"seed":{n}}}'} for n, auc in enumerate((0.7, 0.72))]
    assert table(lines_of(rows))[2] == (
        "| d | fm | hashed | 8 | 0.7100 ± 0.0141 | - | 0.5000 ± 0.0000 | 1.000 ± 0.000 | 1,234 | 2 |"
    )


@pytest.mark.skipif(find_spec("deepctr_torch") is None, reason="deepctr-torch is not installed: extra `bench`")
def test_deepctr_torch_runs_on_the_same_samples_in_the_same_command(planted: Prepared, tmp_path: Path, capsys):
    words = ("--data", str(planted.folder), "--dir", str(tmp_path), *SMALL, "--seeds", "1")
    said = run(capsys, *words, "--models", "lr,fm,deepfm,dcnv2", "--against", "deepctr")
    assert "8 cells" in said
    rows = {(row["trainer"], row["model"]): row for row in Results(tmp_path).rows}
    for model in ("lr", "fm", "deepfm", "dcnv2"):
        assert rows["deepctr-torch", model]["auc"] == pytest.approx(rows["monolith", model]["auc"], abs=0.08)
        assert rows["deepctr-torch", model]["test_samples"] == 600
    assert "compared on lr, fm, deepfm, dcnv2; not on mlp" in run(
        capsys, *words, "--models", "mlp", "--against", "deepctr", code=1
    )
