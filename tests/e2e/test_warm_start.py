"""Another version of a job begins from the run so far, and from rows that torch trained: as a user types it."""

from __future__ import annotations

import json
import signal

import msgspec
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from monolith.streaming.source import open_sink
from monolith.tables import Table
from monolith.tables.hashing import hash_strings
from monolith.training.snapshot import Snapshots
from monolith.training.start import read_start
from monolith.training.status import read_status

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def shop(tmp_path_factory, kit_class):
    """A run that was stopped in the middle of its streams, with samples that wait for their label."""
    kit = kit_class(tmp_path_factory.mktemp("shop"))
    kit.streams = [f"log://{kit.folder / name}" for name in ("features", "actions")]
    kit.rows = kit.events(2_000, seed=5)
    append(kit, 0, 1_000)
    job = kit.job("shop", input={"follow": True})
    process = kit.spawn("train", job)

    def caught_up():
        status = read_status(kit.folder / "shop/state/status.json")
        return status is not None and status.streams.records == 1_000 + kit.actions and status.lag == 0

    kit.wait(caught_up, "the first half")
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0, kit.output()
    append(kit, 1_000, 2_000)
    return kit


def append(kit, begin: int, end: int) -> None:
    """Feature events from number ``begin`` to ``end``, and the actions of their time."""
    features, actions = kit.rows
    first, last = features[begin][2], features[end - 1][2]
    chosen = [
        row for row in actions if (begin == 0 or row[2] > features[begin - 1][2]) and (end == 2_000 or row[2] <= last)
    ]
    kit.actions = len(chosen)
    assert first < last
    for url, rows in zip(kit.streams, (features[begin:end], chosen), strict=True):
        sink = open_sink(url)
        sink.append(rows)
        sink.close()


def begin(kit, name: str, *more: str, job: str = "shop.yaml"):
    """Train to the end of the streams, in the state folder ``name``, from the run of `shop`."""
    options = ("--set", f"state={name}", "--set", "input.follow=false", "--set", f"store=lmdb://{name}-store")
    return kit.run("train", job, *options, "--from", "shop/state", *more)


def test_the_same_job_goes_on_with_the_same_bits_and_with_what_waited(shop):
    done = begin(shop, "same")
    assert done.returncode == 0, done.stderr
    assert "taken         table user: " in done.stdout
    assert "taken         records that wait: " in done.stdout
    was = Snapshots(shop.folder / "shop/state/snapshots").newest()
    start = read_start(shop.folder / "same").snapshot
    for name in ("user", "item", "tags"):
        assert (start.path / f"tables/{name}/table.bin").read_bytes() == was.read(f"tables/{name}/table.bin")
    assert start.read("dense.safetensors") == was.read("dense.safetensors")
    before, after = (read_status(shop.folder / f"{name}/status.json") for name in ("shop/state", "same"))
    assert before.samples < 1_000
    assert before.samples + after.samples == 2_000  # none twice, none lost
    compared = shop.run("inspect", "lmdb://same-store", "--against", "same")
    assert compared.returncode == 0, compared.stdout
    assert "taken         weight mlp.0.weight" in shop.run("inspect", "same").stdout


def test_a_stream_that_was_made_anew_since_is_read_from_its_beginning(shop):
    kept = shop.folder / "shop/state/streams.json"
    before = kept.read_bytes()
    marks = json.loads(before)
    marks["features"]["mark"] = "another log"
    kept.write_text(json.dumps(marks))
    try:
        done = begin(shop, "anew")
    finally:
        kept.write_bytes(before)
    assert done.returncode == 0, done.stderr
    features, actions = shop.streams
    assert (
        f"new           stream {features}: it was made anew since that run read it: from its beginning" in done.stdout
    )
    assert f"taken         stream {actions}: from partition 0 at " in done.stdout
    assert read_status(shop.folder / "anew/status.json").samples == 2_000


def test_the_run_repeats_itself_from_its_start(shop):
    assert begin(shop, "live").returncode == 0
    options = ("--set", "state=live", "--set", "input.follow=false")
    replayed = shop.run("replay", "shop.yaml", *options, "--state", "replayed", "--journal", "live/journal")
    assert "identical to the run's snapshot, bit by bit" in replayed.stdout, replayed.stdout + replayed.stderr


def test_a_run_that_is_killed_before_its_first_snapshot_begins_from_the_same_start_again(shop):
    options = ("--set", "state=killed", "--set", "store=lmdb://killed-store", "--from", "shop/state")
    process = shop.spawn("train", "shop.yaml", *options, "--set", "train.snapshot_every_s=1000")
    journal = shop.folder / "killed/journal"
    shop.wait(lambda: any(path.stat().st_size > 2_000 for path in journal.glob("*.journal")), "some steps")
    process.kill()
    process.wait()
    assert not (shop.folder / "killed/snapshots").exists()
    again = shop.run("train", "shop.yaml", *options, "--set", "input.follow=false")
    assert again.returncode == 0, again.stderr
    state = ("--set", "state=killed", "--set", "input.follow=false")
    replayed = shop.run("replay", "shop.yaml", *state, "--state", "killed-again", "--journal", "killed/journal")
    assert "identical to the run's snapshot, bit by bit" in replayed.stdout, replayed.stdout + replayed.stderr
    compared = shop.run("inspect", "lmdb://killed-store", "--against", "killed")
    assert compared.returncode == 0, compared.stdout


def test_the_same_command_goes_on_and_another_start_is_refused(shop):
    assert begin(shop, "twice").returncode == 0
    again = begin(shop, "twice")
    assert again.returncode == 0, again.stderr
    assert "twice has begun monolith train --from shop/state" in again.stdout
    other = shop.run("train", "shop.yaml", "--set", "state=twice", "--from", "twice")
    assert other.returncode == 1
    assert (
        "the run in twice has begun, so it cannot start from another model any more: leave --from out" in other.stderr
    )


def test_a_changed_job_says_what_it_took_what_is_new_and_what_it_left(shop):
    job = shop.job("changed", input={"follow": False}, model={"hidden": [16, 8]})
    text = (
        job.read_text().replace("name: tags\n  optimizer", "name: hour\n  optimizer").replace("name: e2e", "name: next")
    )
    text = text.replace("kind: adam", "kind: sgd").replace(
        "- bag: true\n  name: tags\n  type: string", "- {name: hour, type: hour}"
    )
    job.write_text(text + "\ndense_optimizer: {kind: adagrad, lr: 0.02}\n")
    done = begin(shop, "next", "--set", "input.unknown_features=ignore", job=job)
    assert done.returncode == 0, done.stderr
    for line in (
        "new           feature hour: there was none",
        "left          feature tags: the job has no such feature",
        "taken         table user:",
        "partly taken  table item:",
        "optimizer states start afresh (the optimizer was adam",
        "new           table hour: there was none",
        "left          table tags: the job has no such table",
        "partly taken  weight mlp.0.weight: fresh: hour",
        "new           dense optimizer Adagrad: it was Adam",
        "taken         stream log://",
    ):
        assert line in done.stdout, done.stdout
    about = json.loads((shop.folder / "next/start/000000000000/start.json").read_bytes())
    assert {"part": "table tags", "outcome": "left", "detail": "the job has no such table"} in about["report"]


def test_from_beginning_reads_everything_again(shop):
    done = begin(shop, "anew", "--from-beginning")
    assert done.returncode == 0, done.stderr
    assert read_status(shop.folder / "anew/status.json").samples == 2_000
    alone = shop.run("train", "shop.yaml", "--from-beginning")
    assert alone.returncode == 1
    assert "--from-beginning says where a run begins that starts --from" in alone.stderr


# --- import -----------------------------------------------------------------------------------------------------------

DIM = 9


@pytest.fixture
def plain(kit):
    """A job whose streams are there, and one embedding of plain torch."""
    kit.fill(f"log://{kit.folder / 'features'}", f"log://{kit.folder / 'actions'}", count=300)
    kit.job("plain", tables=[{"name": name, "dim": DIM} for name in ("user", "item", "tags")], state="state")
    torch.manual_seed(1)
    kit.embedding = torch.nn.Embedding(50, DIM)
    return kit


def rows(kit, table: str) -> Table:
    return Table.open(read_start(kit.folder / "state").snapshot.tables()[table])


def imported(kit, file: str, *options: object, table: str = "user"):
    return kit.run("import", file, "--job", "plain.yaml", "--table", table, *options)


def test_a_torch_embedding_becomes_a_table_and_training_begins_with_it(plain):
    torch.save({"model": {"user": plain.embedding.state_dict()}}, plain.folder / "user.pt")
    np.save(plain.folder / "ids.npy", np.arange(50) * 7)
    done = imported(plain, "user.pt", "--ids", "ids.npy")
    assert done.returncode == 0, done.stderr
    assert "50 rows of table user from user.pt (model.user.weight, ids: ids.npy) in state/start" in done.stdout
    weight = plain.embedding.weight.detach().numpy()
    assert rows(plain, "user").lookup(np.arange(50) * 7).tobytes() == weight.tobytes()
    trained = plain.run("train", "plain.yaml", "--set", "publish.payload=float32")
    assert trained.returncode == 0, trained.stderr
    assert "begins from=state/start" in trained.stderr
    again = imported(plain, "user.pt", "--ids", "ids.npy")
    assert again.returncode == 1
    assert "has begun, so it cannot start from another model" in again.stderr


def test_tables_are_imported_one_after_the_other_and_strings_are_hashed(plain):
    save_file({"a": plain.embedding.weight.detach(), "other": torch.zeros(2, 2)}, plain.folder / "a.safetensors")
    names = [f"t{n}" for n in range(50)]
    (plain.folder / "names.json").write_text(json.dumps({name: 49 - n for n, name in enumerate(names)}))
    assert imported(plain, "a.safetensors", "--key", "a").returncode == 0
    done = imported(plain, "a.safetensors", "--key", "a", "--ids", "names.json", table="tags")
    assert done.returncode == 0, done.stderr
    weight = plain.embedding.weight.detach().numpy()
    assert rows(plain, "user").lookup(np.arange(50)).tobytes() == weight.tobytes()  # ids: the rows' numbers
    assert rows(plain, "tags").lookup(hash_strings("tags", names)).tobytes() == weight[::-1].tobytes()
    inspected = plain.run("inspect", "state").stdout
    assert "table user: 50 rows of a.safetensors; optimizer states start afresh" in inspected
    assert "table tags: 50 rows of a.safetensors" in inspected


def test_what_export_writes_comes_back(plain):
    np.savez(plain.folder / "user.npz", values=plain.embedding.weight.detach().numpy(), ids=np.arange(50) - 25)
    assert imported(plain, "user.npz").returncode == 0
    assert plain.run("train", "plain.yaml").returncode == 0
    assert plain.run("export", "state", "--table", "user", "--out", "user.parquet").returncode == 0
    back = imported(plain, "user.parquet", "--set", "state=back")
    assert back.returncode == 0, back.stderr
    trained = Table.open(Snapshots(plain.folder / "state/snapshots").newest().tables()["user"]).rows()
    again = Table.open(read_start(plain.folder / "back").snapshot.tables()["user"]).rows()
    assert [array.tobytes() for array in again] == [array.tobytes() for array in trained]


def test_the_start_of_a_run_that_made_no_snapshot_can_be_gone_on_from(plain):
    torch.save(plain.embedding.state_dict(), plain.folder / "user.pt")
    assert imported(plain, "user.pt").returncode == 0
    done = plain.run("train", "plain.yaml", "--set", "state=other", "--from", "state")
    assert done.returncode == 0, done.stderr
    assert "taken         table user: 50 rows with values and stamps" in done.stdout
    assert msgspec.json.decode((plain.folder / "other/start/000000000000/start.json").read_bytes())["given"]
