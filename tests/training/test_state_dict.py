"""A state dict has all that a collection is: what is loaded goes on bit for bit, and what does not fit is named."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from monolith.config import TableConfig
from monolith.config.absent import HashedTail
from monolith.config.admission import MinCount
from monolith.config.eviction import LFU
from monolith.config.expiry import Idle
from monolith.config.optimizers import FTRL, SGD, Adagrad, Adam, Slice
from monolith.config.table import FeatureRules
from monolith.tables import from_dense
from monolith.tables.batch import Bag
from monolith.training.embeddings import EmbeddingBagCollection

TABLES = {
    "plain": [TableConfig(name="user", dim=4)],
    "stateless": [TableConfig(name="user", dim=4, optimizer=SGD(lr=0.1))],
    "counters": [TableConfig(name="user", dim=4, admission=MinCount(3), optimizer=Adam())],
    "times and uses": [TableConfig(name="user", dim=4, expiry=Idle(ttl_s=20, max_age_s=50), eviction=LFU(max_rows=60))],
    "tail": [TableConfig(name="user", dim=4, admission=MinCount(2), absent=HashedTail(rows=1500))],
    "bfloat16": [TableConfig(name="user", dim=4, storage="bfloat16", optimizer=FTRL())],
    "two features with rules": [
        TableConfig(
            name="shop",
            dim=4,
            features=["user", "item"],
            admission=MinCount(2),
            per_feature={"item": FeatureRules(admission=MinCount(3), expiry=Idle(ttl_s=30))},
            slices=[Slice(columns=1, optimizer=FTRL()), Slice(columns=3, optimizer=Adagrad())],
        )
    ],
    "hashed": [TableConfig(name="user", dim=4, kind="hashed", rows=50)],
    "qr": [TableConfig(name="user", dim=4, kind="qr", rows=90)],
    "two": [TableConfig(name="user", dim=4), TableConfig(name="item", dim=2, optimizer=Adam())],
}


def train(collection: EmbeddingBagCollection, steps: range) -> bytes:
    """Some steps that are a function of their numbers; the vectors that they read."""
    read = []
    for step in steps:
        rng = np.random.default_rng(step)
        bags = {name: Bag(rng.integers(0, 120, 30), np.full(15, 2, np.int32)) for name in ("user", "item")}
        bags = {name: bag for name, bag in bags.items() if name in collection._features}
        vectors = collection.forward_bags(bags, event_time_ms=step * 4000)
        sum((vector * vector).sum() + vector.sum() for vector in vectors.values()).backward()
        read += [vector.detach().numpy().tobytes() for vector in vectors.values()]
        for table in collection.tables.values():
            table.sweep(max_rows=50)
            table.cut()
    return b"".join(read)


def saved(collection: EmbeddingBagCollection, folder: Path) -> dict[str, bytes]:
    """The files of all tables."""
    for name, table in collection.tables.items():
        table.save(folder / name)
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def through_a_file(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("kind", TABLES)
def test_what_was_loaded_is_the_same_table_and_goes_on_bit_for_bit(kind, tmp_path):
    first, second = (EmbeddingBagCollection(TABLES[kind]) for _ in range(2))
    train(first, range(12))
    second.load_state_dict(through_a_file(first.state_dict()))
    assert saved(second, tmp_path / "a") == saved(first, tmp_path / "b")
    assert train(second, range(12, 20)) == train(first, range(12, 20))
    assert saved(second, tmp_path / "c") == saved(first, tmp_path / "d")


def test_keys_and_shapes_are_torchrecs_where_it_has_some():
    collection = EmbeddingBagCollection(TABLES["plain"])
    train(collection, range(3))
    model = torch.nn.ModuleDict({"sparse": collection, "over": torch.nn.Linear(4, 1)})
    state, n = model.state_dict(), len(collection.tables["user"])
    prefix = "sparse.embedding_bags.user."
    assert {key: (value.dtype, tuple(value.shape)) for key, value in state.items() if key.startswith(prefix)} == {
        prefix + "weight": (torch.float32, (n, 4)),
        prefix + "weight_id": (torch.int64, (n, 1)),
        prefix + "bucket": (torch.int64, (1024, 1)),
        prefix + "metadata": (torch.int64, (n, 2)),
        prefix + "optimizer_state": (torch.float32, (n, 4)),
        prefix + "counters": (torch.int64, (0, 3)),
        prefix + "tombstones": (torch.int64, (0, 2)),
        prefix + "tail_weight": (torch.float32, (0, 4)),
        prefix + "tail_state": (torch.float32, (0, 4)),
        prefix + "tail_mark": (torch.int64, (0,)),
        prefix + "table": (torch.uint8, tuple(state[prefix + "table"].shape)),
    }
    ids = state[prefix + "weight_id"][:, 0].numpy()
    assert collection.tables["user"].lookup(ids).tobytes() == state[prefix + "weight"].numpy().tobytes()
    assert {"over.weight", "over.bias"} <= state.keys()


def test_a_state_dict_is_a_copy():
    collection = EmbeddingBagCollection(TABLES["plain"])
    train(collection, range(3))
    state = collection.state_dict()
    before = {key: value.clone() for key, value in state.items()}
    train(collection, range(3, 6))
    assert all(torch.equal(value, before[key]) for key, value in state.items())


def test_strict_loading_names_missing_and_unexpected_keys():
    collection = EmbeddingBagCollection(TABLES["two"])
    with pytest.raises(RuntimeError, match=r'Missing key\(s\).*"embedding_bags.item.weight"'):
        collection.load_state_dict(EmbeddingBagCollection(TABLES["plain"]).state_dict())
    with pytest.raises(RuntimeError, match=r'Unexpected key\(s\).*"embedding_bags.city.weight"'):
        collection.load_state_dict(collection.state_dict() | {"embedding_bags.city.weight": torch.zeros(1, 4)})


def test_loading_that_is_not_strict_takes_the_tables_that_are_there(tmp_path):
    first, second = EmbeddingBagCollection(TABLES["plain"]), EmbeddingBagCollection(TABLES["two"])
    train(first, range(3))
    train(second, range(3, 5))
    item = second.tables["item"].rows()[1].tobytes()
    missing = second.load_state_dict(first.state_dict(), strict=False).missing_keys
    assert len(missing) == 11
    assert all(key.startswith("embedding_bags.item.") for key in missing)
    assert second.tables["user"].rows()[1].tobytes() == first.tables["user"].rows()[1].tobytes()
    assert second.tables["item"].rows()[1].tobytes() == item


def test_rows_alone_as_torchrec_writes_them_are_taken_with_fresh_optimizer_states():
    ids, weight = torch.tensor([[7], [3]]), torch.arange(8.0).reshape(2, 4)
    state = {"embedding_bags.user.weight": weight, "embedding_bags.user.weight_id": ids}
    collection = EmbeddingBagCollection(TABLES["plain"])
    with pytest.raises(RuntimeError, match=r"embedding_bags.user.optimizer_state"):
        collection.load_state_dict(state)
    collection.load_state_dict(state, strict=False)
    assert collection.tables["user"].lookup(np.array([3, 7])).tolist() == [[4, 5, 6, 7], [0, 1, 2, 3]]
    fresh = from_dense(TABLES["plain"][0], [7, 3], weight.numpy())
    for table in (fresh, collection.tables["user"]):
        table.apply_gradients(np.array([3, 7]), np.ones((2, 4), np.float32))
    assert fresh.rows()[1].tobytes() == collection.tables["user"].rows()[1].tobytes()


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"dim": 3}, "dim = 4, the config says 3"),
        ({"optimizer": SGD()}, "optimizer kind"),
        ({"seed": 5}, "seed = 0, the config says 5"),
    ],
)
def test_another_config_is_refused_by_name(change, error):
    state = EmbeddingBagCollection(TABLES["plain"]).state_dict()
    other = EmbeddingBagCollection([TableConfig(**({"name": "user", "dim": 4} | change))])
    with pytest.raises(RuntimeError, match=f"embedding_bags.user: .*{error}"):
        other.load_state_dict(state)


@pytest.mark.parametrize(
    ("name", "spoil", "error"),
    [
        ("weight", lambda x: x[:-1], "weight is float32"),
        ("weight", lambda x: x.double(), "weight is float64"),
        ("weight_id", lambda x: x.flip(0), "not in the order of buckets"),
        ("bucket", lambda x: x + 1, "bucket does not say"),
        ("metadata", lambda x: x[:, :1], "metadata is int64"),
        ("metadata", lambda x: x * 0 + 2**31, "marks holds"),
        ("table", lambda x: x[:-1], "no header"),
    ],
)
def test_damage_is_named_and_changes_nothing(name, spoil, error, tmp_path):
    collection = EmbeddingBagCollection(TABLES["plain"])
    train(collection, range(3))
    before, state = saved(collection, tmp_path / "a"), collection.state_dict()
    key = f"embedding_bags.user.{name}"
    with pytest.raises(RuntimeError, match=f"embedding_bags.user.*{error}"):
        collection.load_state_dict(state | {key: spoil(state[key])})
    assert saved(collection, tmp_path / "b") == before


def test_another_process_loads_what_this_one_saved(tmp_path):
    collection = EmbeddingBagCollection(TABLES["plain"])
    train(collection, range(3))
    torch.save(collection.state_dict(), tmp_path / "model.pt")
    code = (
        "import sys, torch\n"
        "from monolith.config import TableConfig\n"
        "from monolith.training.embeddings import EmbeddingBagCollection\n"
        "collection = EmbeddingBagCollection([TableConfig(name='user', dim=4)])\n"
        "collection.load_state_dict(torch.load(sys.argv[1]))\n"
        "collection.tables['user'].save(sys.argv[2])\n"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "model.pt", tmp_path / "theirs"], check=True)
    collection.tables["user"].save(tmp_path / "ours")
    assert (tmp_path / "theirs/table.bin").read_bytes() == (tmp_path / "ours/table.bin").read_bytes()


def test_a_distributed_checkpoint_carries_the_rows(tmp_path):
    first, second = (EmbeddingBagCollection(TABLES["two"]) for _ in range(2))
    train(first, range(5))
    dcp.save(first.state_dict(), checkpoint_id=tmp_path / "dcp")
    dcp_to_torch_save(tmp_path / "dcp", tmp_path / "model.pt")
    second.load_state_dict(torch.load(tmp_path / "model.pt"))
    assert saved(second, tmp_path / "a") == saved(first, tmp_path / "b")
