"""Batch, then online, then judged: one job file, as a user types it."""

from __future__ import annotations

import errno
import json
import signal
import time

import pyarrow.parquet as pq
import pytest
from shop import open_shop

from monolith.cli import parser
from monolith.errors import UnavailableError
from monolith.streaming.journal import held
from monolith.training.status import read_status

pytestmark = pytest.mark.e2e

ROWS = 12_000
CUT = "2023-11-14T23:53:20"  # START_MS + 6,000 s
JOB = """\
name: shop
input:
  samples: parquet://shop.parquet?time=t&item=item&request=t&features=user,item,city&label=clicked
  follow: false
tables:
  - {name: user, dim: 5}
  - {name: item, dim: 5}
  - {name: city, dim: 5}
features:
  - {name: city, type: string}
model: {kind: deepfm, hidden: [16]}
train: {batch_size: 128}
fit: {epochs: 4}
state: state
store: lmdb://store
"""


@pytest.fixture(scope="module")
def shop(tmp_path_factory, kit_class):
    """A click log of which the first half is fitted, and the rest trained online."""
    kit = open_shop(kit_class(tmp_path_factory.mktemp("shop")), JOB, rows=ROWS, users=60)
    fitted = kit.run("fit", "shop.yaml", "--until", CUT)
    assert fitted.returncode == 0, fitted.stderr
    kit.fitted = fitted.stdout
    return kit


def test_fit_tells_each_epoch_and_keeps_the_best(shop):
    assert "5,400 samples to train, 600 to judge" in shop.fitted
    assert "epoch 1/4  label samples 600, AUC 0." in shop.fitted
    assert "is kept in state/start" in shop.fitted
    assert not (shop.folder / "state/fit.tmp").exists()


def test_evaluate_scores_deciles_slices_and_predictions_without_learning(shop):
    done = shop.run(
        *("evaluate", "shop.yaml", "--from", CUT, "--by", "city", "--by", "user", "--json"),
        *("--out", "p.parquet", "--plot", "r.png"),
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["samples"] == 6000
    assert found["scores"]["label"]["auc"] > 0.7
    assert {*found["by"]["city"]["label"]} == {"c0", "c1", "c2"}
    assert len(found["by"]["user"]["label"]) == 10
    assert sum(one["samples"] for one in found["deciles"]["label"]) == 6000
    rows = pq.read_table(shop.folder / "p.parquet")
    assert (rows.num_rows, rows.column_names[:3]) == (6000, ["request_id", "item_id", "event_time"])
    assert shop.folder.joinpath("r.png").read_bytes()[:4] == b"\x89PNG"
    again = shop.run("evaluate", "shop.yaml", "--from", CUT)
    assert f"AUC {found['scores']['label']['auc']:.4f}" in again.stdout
    assert not (shop.folder / "state/journal").exists()


def test_train_goes_on_online_from_where_the_fit_ended(shop):
    trained = shop.run("train", "shop.yaml")
    assert trained.returncode == 0, trained.stderr
    assert read_status(shop.folder / "state/status.json").samples == 6000
    assert "begins from=state/start" in trained.stderr
    compared = shop.run("inspect", "lmdb://store", "--against", "state")
    assert compared.returncode == 0, compared.stdout
    replayed = shop.run("replay", "shop.yaml", "--state", "again", "--journal", "state/journal")
    assert "identical to the run's snapshot, bit by bit" in replayed.stdout, replayed.stdout + replayed.stderr


def test_a_fitted_model_is_published_before_its_first_event(shop):
    """Fitted on Parquet, then waiting for a stream to which nobody has written yet."""
    sets = ("--set", "state=waiting", "--set", "store=lmdb://first")
    assert shop.run("fit", "shop.yaml", *sets, "--set", "fit.epochs=1").returncode == 0
    live = ("--set", "input.samples=log://nobody", "--set", "input.follow=true")
    from monolith.streaming.source import open_sink

    sink = open_sink(f"log://{shop.folder / 'nobody'}")
    daemon = shop.spawn("train", "shop.yaml", *sets, *live)
    status = shop.folder / "waiting/status.json"
    shop.wait(lambda: (s := read_status(status)) and s.stored_sequence > 0, "the fitted model to be published")
    daemon.terminate()
    assert daemon.wait(timeout=30) == 0
    sink.close()
    assert "table user: 60 rows" in shop.run("inspect", "lmdb://first").stdout


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("fit", "shop.yaml", "--from", "yesterday"), "'yesterday' is no time"),
        (("fit", "shop.yaml", "--from", "2024-01-01", "--until", "2023-01-01"), "is not before --until"),
        (("fit", "shop.yaml", "--set", "state=new", "--from", "2030-01-01"), "the training part has no sample"),
        (("fit", "shop.yaml", "--set", "state=new", "--set", "fit.metric=rmse"), "allowed are auc, gauc, logloss"),
        (("evaluate", "shop.yaml", "--by", "colour"), "--by colour: no table reads it"),
        (("evaluate", "shop.yaml", "--set", "state=nowhere"), "holds no model yet"),
        (("evaluate", "shop.yaml", "--from", "2030-01-01"), "no sample to score"),
        (("evaluate", "shop.yaml", "--on", "parquet://a", "--features", "log://b"), "exclude each other"),
    ],
)
def test_what_cannot_be_is_refused_by_name(shop, words, says):
    done = shop.run(*words)
    assert done.returncode == 1
    assert says in done.stderr


def test_a_run_that_has_begun_is_not_fitted_again(shop):
    assert "has begun" in shop.run("fit", "shop.yaml").stderr


@pytest.mark.parametrize("command", ["fit", "train"])
def test_state_folder_that_is_being_fitted_is_refused_to_other_processes(shop, command):
    with held(shop.folder / "fitting/journal"):
        refused = shop.run(command, "shop.yaml", "--set", "state=fitting")
    assert refused.returncode == 1
    assert "in use by process" in refused.stderr
    assert not (shop.folder / "fitting/start").exists()


def test_fit_that_is_told_to_stop_leaves_nothing_behind(shop):
    fit = shop.spawn("fit", "shop.yaml", "--set", "state=stopped", "--set", "fit.epochs=1000")
    scratch, deadline = shop.folder / "stopped/fit.tmp", time.monotonic() + 60
    while not scratch.exists():
        assert fit.poll() is None
        assert time.monotonic() < deadline, "no fit began within 60 s"
        time.sleep(0.02)
    fit.send_signal(signal.SIGTERM)
    assert fit.wait(timeout=60) == 128 + signal.SIGTERM
    assert not list((shop.folder / "stopped").iterdir())


def test_fit_keeps_what_it_writes_to_its_user(shop):
    written = [shop.folder / "state/start", *(shop.folder / "state/start").rglob("*")]
    assert {path.stat().st_mode & 0o077 for path in written} == {0}


def test_fit_that_finds_no_room_names_the_folder_and_the_remedy(shop, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.chdir(shop.folder)
    monkeypatch.setattr("monolith.commands.fit._fit", full)
    args = parser().parse_args(["fit", "shop.yaml", "--set", "state=narrow"])
    with pytest.raises(UnavailableError, match=r"narrow/fit\.tmp.*make room there"):
        args.run(args)
    assert not any((shop.folder / "narrow").iterdir())
