"""Rows of other programs: which ids they get, and what is refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from monolith.cli import parser
from monolith.errors import ConfigError, InputError
from monolith.tables import Table, TableConfig, from_dense, to_dense
from monolith.tables.hashing import hash_strings, salted
from monolith.training.start import read_start

DIM = 9
WEIGHT = np.random.default_rng(1).normal(size=(50, DIM)).astype(np.float32)
JOB = """\
name: plain
input: {samples: "memory://s"}
tables:
  - {name: user, dim: 9}
  - {name: tags, dim: 9}
features:
  - {name: tags, type: string}
model: {kind: mlp, hidden: [4]}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory, with a job and files of ids."""
    monkeypatch.chdir(tmp_path)
    tmp_path.joinpath("plain.yaml").write_text(JOB)
    torch.save({"weight": torch.from_numpy(WEIGHT)}, "user.pt")
    np.save("ids.npy", np.arange(50) * 7)
    np.save("twice.npy", np.array([3, 3, *range(10, 58)]))
    np.save("few.npy", np.arange(2))
    np.save("floats.npy", np.arange(50) + 0.5)
    tmp_path.joinpath("names.txt").write_text("\n".join(f"u{n}" for n in range(50)))
    tmp_path.joinpath("numbers.txt").write_text("\n".join(str(n * 3) for n in range(50)))
    tmp_path.joinpath("broken.pt").write_bytes(b"nothing")
    return tmp_path


def imported(file: str, *options: object, table: str = "user") -> Table:
    """The table in the start that the command wrote."""
    words = ["import", file, "--job", "plain.yaml", "--table", table, *map(str, options)]
    args = parser().parse_args(words)
    assert args.run(args) == 0
    return Table.open(read_start(Path("state")).snapshot.tables()[table])


STATE = ("--set", "state=state")


@pytest.mark.parametrize(
    ("options", "ids"),
    [
        ((), np.arange(50)),
        (("--ids", "ids.npy"), np.arange(50) * 7),
        (("--ids", "numbers.txt"), np.arange(50) * 3),
        (("--set", "tables[0].expiry={kind: idle, ttl_s: 60}", "--last-seen", "2026-11-27"), np.arange(50)),
        (("--set", "tables[0].features=[user, friend]", "--feature", "friend"), salted("friend", np.arange(50))),
        (("--set", "tables[0].features=[user, friend]", "--keys"), np.arange(50)),
    ],
)
def test_each_row_goes_to_its_id(folder, options, ids):
    assert imported("user.pt", *STATE, *options).lookup(ids).tobytes() == WEIGHT.tobytes()


def test_strings_are_hashed_as_the_feature_hashes_them(folder):
    names = [f"t{n}" for n in range(50)]
    folder.joinpath("names.json").write_text(json.dumps({name: 49 - n for n, name in enumerate(names)}))
    table = imported("user.pt", *STATE, "--ids", "names.json", table="tags")
    assert table.lookup(hash_strings("tags", names)).tobytes() == WEIGHT[::-1].tobytes()


def test_a_managed_collision_module_of_torchrec_becomes_a_table(folder):
    """Its sorted raw ids, int64's largest where a place is free, are mapped to rows by a second tensor."""
    free = torch.iinfo(torch.int64).max
    module = "_managed_collision_collection._managed_collision_modules.user"
    state = {
        "_embedding_bag_collection.embedding_bags.user.weight": torch.from_numpy(WEIGHT),
        f"{module}._mch_sorted_raw_ids": torch.tensor([11, 22, 33, free]),
        f"{module}._mch_remapped_ids_mapping": torch.tensor([3, 0, 2, 1]),
    }
    torch.save(state, "mch.pt")
    ids, rows = f"{module}._mch_sorted_raw_ids", f"{module}._mch_remapped_ids_mapping"
    table = imported("mch.pt", *STATE, "--ids", ids, "--rows", rows, "--empty", free)
    assert len(table) == 3
    assert table.lookup(np.array([11, 22, 33])).tobytes() == WEIGHT[[3, 0, 2]].tobytes()


def test_a_virtual_table_of_torchrec_is_found_by_its_weight_ids(folder):
    state = {
        "embedding_bags.user.weight": torch.from_numpy(WEIGHT),
        "embedding_bags.user.weight_id": torch.arange(100, 150)[:, None],
    }
    torch.save({"model": state}, "zch.pt")
    assert imported("zch.pt", *STATE).lookup(np.arange(100, 150)).tobytes() == WEIGHT.tobytes()


def test_sixteen_bits_are_widened(folder):
    halves = torch.from_numpy(WEIGHT).bfloat16()
    save_file({"w": halves}, "half.safetensors")
    assert imported("half.safetensors", *STATE).lookup(np.arange(50)).tobytes() == halves.float().numpy().tobytes()


@pytest.mark.parametrize(
    ("file", "options", "error"),
    [
        ("user.pt", ("--ids", "twice.npy"), "1 ids have more than one row, the first is 3, in rows 0 and 1"),
        ("user.pt", ("--ids", "few.npy"), "few.npy has 2 ids, weight 50 rows"),
        ("user.pt", ("--ids", "ids.npy", "--rows", "twice.npy"), "id 294 is in row 50, weight has 50 rows"),
        ("user.pt", ("--ids", "floats.npy"), "ids are integers or strings"),
        ("user.pt", ("--ids", "nowhere.npy"), "neither a file nor in user.pt, which has weight"),
        ("user.pt", ("--key", "bias"), "holds no 'bias': give one by --key; there are weight"),
        ("user.pt", ("--set", "tables[0].dim=8"), r"values have shape \(50, 9\), table 'user' takes \(n, 8\)"),
        ("user.pt", ("--set", "tables[0].expiry={kind: idle, ttl_s: 60}"), "say with --last-seen"),
        ("user.pt", ("--set", "tables[0].features=[user, friend]"), "say with --feature of which one the ids are"),
        ("user.pt", ("--set", "tables[0].kind=hashed", "--set", "tables[0].rows=9"), "its rows are of no one id"),
        ("user.pt", ("--feature", "friend"), "table 'user' is read by user"),
        ("user.pt", ("--ids", "names.txt"), "the ids are strings, and feature user is of type int"),
        ("broken.pt", (), "broken.pt cannot be read as .pt"),
        ("ids.npy", (), "holds no matrix of floats"),
        ("names.csv", (), "the suffix '.csv' is not known"),
    ],
)
def test_what_cannot_be_imported_is_refused_by_name(folder, file, options, error):
    with pytest.raises(ConfigError, match=error):
        imported(file, *STATE, *options)
    assert not (folder / "state/start").exists()


CONFIG = TableConfig(name="user", dim=DIM)


@pytest.mark.parametrize(
    ("ids", "values", "error"),
    [
        (np.arange(50), WEIGHT.astype(np.int32), "values are int32: give floats"),
        (np.arange(50), np.where(np.arange(DIM) == 2, np.nan, WEIGHT), "the first in row 0, column 2: nan"),
        (np.arange(50), np.full((50, DIM), 1e39), "not finite in float32"),
        (np.arange(50) + 0.5, WEIGHT, "ids are float64"),
        (np.arange(49), WEIGHT, "49 ids and 50 rows"),
    ],
)
def test_from_dense_refuses_what_no_table_can_hold(ids, values, error):
    with pytest.raises(InputError, match=error):
        from_dense(CONFIG, ids, values)


def test_to_dense_gives_back_what_from_dense_was_given():
    table = from_dense(CONFIG, np.arange(50)[::-1], WEIGHT)
    ids, values = to_dense(table)
    assert ids.tolist() == list(range(50))
    assert values.tobytes() == WEIGHT[::-1].tobytes()
    some, rows = to_dense(table, [70, 4, 2, 4])
    assert some.tolist() == [2, 4]
    assert rows.tobytes() == WEIGHT[[47, 45]].tobytes()
    assert table.sequence == 1
    table.cut()
    assert len(table.delta(0).ids) == 50
