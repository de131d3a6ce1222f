"""`monolith sweep` as a user types it: small data, few trials, killed and gone on with."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytestmark = pytest.mark.e2e

ROWS = 3_000
START_MS = 1_700_000_000_000
JOB = """\
name: shop
input:
  samples: parquet://shop.parquet?time=t&item=item&request=t&features=user,item&label=clicked
  follow: false
tables:
  - {name: user, dim: 3}
  - {name: item, dim: 3}
model: {kind: fm}
fit: {epochs: 3}
state: state
"""
GRID = ("sweep", "shop.yaml", "--set", "tables.*.optimizer.lr=0.02,0.2", "--seeds", "2")


@pytest.fixture(scope="module")
def shop(tmp_path_factory, kit_class):
    """A click log, and what a grid over it printed."""
    kit = kit_class(tmp_path_factory.mktemp("sweep"))
    rng = np.random.default_rng(2)
    user, item = rng.integers(0, 60, ROWS), rng.integers(0, 40, ROWS)
    clicked = rng.random(ROWS) < 1 / (1 + np.exp(-(rng.normal(0, 1.5, 60)[user] + rng.normal(0, 1, 40)[item])))
    columns = {"user": user, "item": item, "clicked": clicked, "t": START_MS + np.arange(ROWS) * 1000}
    pq.write_table(pa.table(columns), kit.folder / "shop.parquet")
    kit.folder.joinpath("shop.yaml").write_text(JOB)
    kit.grid = kit.run(*GRID)
    assert kit.grid.returncode == 0, kit.grid.stderr
    return kit


def lines(kit, folder: str) -> list[dict]:
    path = kit.folder / folder / "trials.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_a_grid_prints_a_table_and_leaves_results_states_and_a_picture(shop):
    assert "2 combinations of settings, 4 trials; 0 were done before" in shop.grid.stdout
    kept = lines(shop, "build/sweep")
    assert sorted((line["settings"][0], line["seed"]) for line in kept) == [
        *(("tables.*.optimizer.lr=0.02", 0), ("tables.*.optimizer.lr=0.02", 1)),
        *(("tables.*.optimizer.lr=0.2", 0), ("tables.*.optimizer.lr=0.2", 1)),
    ]
    means = {}
    for line in kept:
        means.setdefault(line["settings"][0], []).append(line["score"])
    best, scores = max(means.items(), key=lambda item: np.mean(item[1]))
    first = next(at for at, line in enumerate(shop.grid.stdout.splitlines()) if line.split()[-1:] == ["settings"]) + 1
    shown = shop.grid.stdout.splitlines()[first].split()
    assert shown[:2] == [f"{np.mean(scores):.4f}", f"{np.std(scores, ddof=1):.4f}"]
    assert shown[-1] == best
    assert shop.folder.joinpath("build/sweep/sweep.png").read_bytes()[:4] == b"\x89PNG"


def test_a_trial_is_the_fit_that_its_options_give(shop):
    trial = next(line for line in lines(shop, "build/sweep") if line["seed"] == 1)
    options = [part for option in (*trial["settings"], "seed=1", "state=alone") for part in ("--set", option)]
    fitted = shop.run("fit", "shop.yaml", *options)
    assert f"AUC {trial['score']:.4f}" in fitted.stdout, fitted.stderr
    dense = [next((shop.folder / state / "start").rglob("dense.safetensors")) for state in ("alone", trial["state"])]
    assert dense[0].read_bytes() == dense[1].read_bytes()


def test_the_same_command_does_nothing_twice_and_one_more_seed_only_the_new_trials(shop):
    again = shop.run(*GRID, "--json")
    assert "4 trials; 4 were done before" in again.stderr
    found = json.loads(again.stdout)
    assert found["metric"] == "auc"
    assert [row["status"] for row in found["rows"]] == ["done", "done"]
    assert "6 trials; 4 were done before" in shop.run(*GRID[:-1], "3").stdout
    assert len(lines(shop, "build/sweep")) == 6


def test_train_goes_on_online_from_the_best(shop):
    state = max(lines(shop, "build/sweep"), key=lambda line: line["score"])["state"]
    trained = shop.run("train", "shop.yaml", "--set", f"state={state}", "--set", "input.follow=false")
    assert f"begins from={state}/start" in trained.stderr, trained.stderr


def test_random_draws_and_halving_stops_what_is_worse(shop):
    words = ("--random", "--trials", "5", "--halving", "--workers", "1", "--seeds", "2", "--dir", "halved")
    done = shop.run("sweep", "shop.yaml", "--set", "tables.*.optimizer.lr=0.00001..0.3:log", *words)
    assert done.returncode == 0, done.stderr
    kept = lines(shop, "halved")
    first = [line for line in kept if line["seed"] == 0]
    assert len(first) == 5
    assert {line["status"] for line in first} == {"done", "stopped"}
    assert all(len(line["epochs"]) < 3 for line in first if line["status"] == "stopped")
    ended = {line["settings"][0] for line in first if line["status"] == "done"}
    assert {line["settings"][0] for line in kept if line["seed"] == 1} == ended
    again = shop.run("sweep", "shop.yaml", "--set", "tables.*.optimizer.lr=0.00001..0.3:log", *words)
    assert f"10 trials; {len(kept)} were done before" in again.stdout
    assert len(lines(shop, "halved")) == len(kept)


def test_a_trial_that_fails_is_recorded_the_others_go_on_and_the_next_call_tries_it_again(shop):
    words = ("sweep", "shop.yaml", "--set", "tables.*.optimizer.lr=1e30,0.1", "--dir", "failing")
    done = shop.run(*words)
    assert done.returncode == 0, done.stderr
    assert "failed: tables.*.optimizer.lr=1e30, seed 0: NonFiniteError" in done.stdout
    assert {line["status"] for line in lines(shop, "failing")} == {"done", "failed"}
    assert "2 trials; 1 were done before" in shop.run(*words).stdout
    assert sorted(line["status"] for line in lines(shop, "failing")) == ["done", "failed", "failed"]


def test_only_the_states_of_the_best_are_kept_where_one_asks_for_that(shop):
    words = ("--set", "tables.*.optimizer.lr=0.00001,0.1,0.00002", "--set", "fit.epochs=1", "--dir", "few")
    done = shop.run("sweep", "shop.yaml", *words, "--keep", "1")
    best = max(lines(shop, "few"), key=lambda line: line["score"])
    assert [path.name for path in (shop.folder / "few/trials").iterdir()] == [best["trial"]]
    assert f"--set state={best['state']}" in done.stdout
    assert "3 trials; 3 were done before" in shop.run("sweep", "shop.yaml", *words).stdout


def test_settings_that_change_what_is_read_get_samples_of_their_own(shop):
    words = ("--set", "train.group_by=user,item", "--set", "fit.epochs=1", "--dir", "two")
    assert "trials are judged on 2 different sets of samples" in shop.run("sweep", "shop.yaml", *words).stdout
    assert len(list((shop.folder / "two/samples").iterdir())) == 2
    assert len(list((shop.folder / "build/sweep/samples").iterdir())) == 1


@pytest.mark.parametrize(("how", "status"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_a_sweep_that_ends_early_leaves_no_worker_and_is_gone_on_with(shop, how, status):
    folder = f"ended{status}"
    words = ("sweep", "shop.yaml", "--dir", folder, "--set", "fit.patience=9999")
    sweep = shop.spawn(*words, "--set", "fit.epochs=1,100000")
    shop.wait(lambda: lines(shop, folder), "the short trial to end", timeout_s=150)
    workers = Path(f"/proc/{sweep.pid}/task/{sweep.pid}/children").read_text().split()
    assert len(workers) >= 2
    sweep.send_signal(how)
    assert sweep.wait(timeout=150) == status
    shop.wait(lambda: not any(is_running(worker) for worker in workers), "the workers to end")
    again = shop.run(*words, "--set", "fit.epochs=1,2")
    assert "2 trials; 1 were done before" in again.stdout, again.stderr
    assert len(lines(shop, folder)) == 2


def is_running(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_worker_that_is_killed_costs_its_trial_only(shop):
    words = ("--set", "fit.patience=9999", "--set", "fit.epochs=100000,2", "--workers", "1", "--dir", "killed")
    sweep = shop.spawn("sweep", "shop.yaml", *words)
    shop.wait(lambda: list(shop.folder.glob("killed/trials/*/fit.tmp/best")), "the long trial to run", timeout_s=150)
    for child in Path(f"/proc/{sweep.pid}/task/{sweep.pid}/children").read_text().split():
        if "spawn_main" in Path(f"/proc/{child}/cmdline").read_text():
            os.kill(int(child), signal.SIGKILL)
    assert sweep.wait(timeout=150) == 0
    kept = {line["settings"][0]: line for line in lines(shop, "killed")}
    assert "its process ended by signal 9" in kept["fit.epochs=100000"]["error"]
    assert kept["fit.epochs=2"]["status"] == "done"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--set", "model.kindd=fm,lr"), "model.kindd: unknown key 'kindd'"),
        (("--set", "tables.*.dim=2,0"), "expected an integer >= 1; saw 0"),
        (("--set", "train.batch_size=1..8"), "a range is drawn from by --random --trials N"),
        (("--random",), "--random and --trials N go together"),
        (("--trials", "3"), "--random and --trials N go together"),
        (("--set", "seed=1,2"), "--seeds N runs every trial with N seeds"),
        (("--from", "2030-01-01"), "every trial failed, the first one with: NoSamplesError"),
        (("--set", "input.samples=log://nowhere,log://neither"), "every trial failed, the first one with: NoLogError"),
    ],
)
def test_what_cannot_be_is_refused_by_name(shop, words, says):
    done = shop.run("sweep", "shop.yaml", "--dir", "refused", *words)
    assert done.returncode == 1
    assert says in done.stderr
