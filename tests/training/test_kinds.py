"""Any model trains any kind of table; gradients are those that torch finds through the same formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from batches import batch_of
from reference import probe_numbers

from monolith.config import InputConfig, JobConfig, ModelConfig, TableConfig
from monolith.config.features import FeatureConfig
from monolith.config.optimizers import SGD
from monolith.tables.batch import Bag
from monolith.tables.hashing import salted
from monolith.tables.tail import tail_numbers
from monolith.training.embeddings import EmbeddingBagCollection
from monolith.training.learner import Learner

KINDS = {
    "hashed": {"kind": "hashed", "rows": 40},
    "product": {"kind": "qr", "rows": 60, "combine": "product"},
    "sum": {"kind": "qr", "rows": 60, "remainders": 5, "combine": "sum"},
    "concat": {"kind": "qr", "rows": 60, "combine": "concat"},
    "unified": {"kind": "unified", "rows": 60},
    "cafe": {"kind": "cafe", "rows": 10, "own_rows": 8},
    "two probes": {"kind": "unified", "rows": 60, "probes": 2},
}
DIM = 6

each_kind = pytest.mark.parametrize("kind", KINDS)


def settings_of(kind: str, features: list[str]) -> dict[str, object]:
    """The kind's settings, with as many probes for each feature."""
    settings = dict(KINDS[kind])
    return settings | ({"probes": dict.fromkeys(features, settings["probes"])} if "probes" in settings else {})


def parts_of(table) -> list[torch.Tensor]:
    """The rows of each part, as leaves of torch's."""
    return [torch.tensor(part.rows()[1], requires_grad=True) for part in table.published().values()]


def vectors_by_torch(parts, config: TableConfig, ids: np.ndarray) -> torch.Tensor:
    if config.kind == "unified":
        probes = range(config.probes.get("a", 1))
        return torch.cat([parts[0][probe_numbers(ids, probe, config.rows)] for probe in probes], dim=1)
    numbers = tail_numbers(ids, config.rows)
    if config.kind == "hashed":
        return parts[0][numbers]
    m = config.remainders or int(np.ceil(np.sqrt(config.rows)))
    q, r = parts[0][numbers // m], parts[1][numbers % m]
    if config.combine == "concat":
        return torch.cat([q, r], dim=1)
    return q + r if config.combine == "sum" else q * (1 + r)


def pooled_by_torch(vectors: torch.Tensor, bag: Bag, weights: torch.Tensor, pooling: str) -> torch.Tensor:
    parts = torch.split(vectors * weights[:, None], bag.lengths.tolist())
    return torch.stack([p.sum(0) / (max(1, len(p)) if pooling == "mean" else 1) for p in parts])


@pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if kind != "cafe"]
)  # whose rows tests/tables/test_cafe.py knows
@pytest.mark.parametrize("pooling", ["sum", "mean"])
@pytest.mark.parametrize("weighted", [False, True])
def test_gradients_are_those_of_autograd(kind, pooling, weighted):
    """SGD at rate 1 makes a step of minus the gradient: ids repeat, rows are shared, bags are empty or long."""
    rng = np.random.default_rng(4)
    config = TableConfig(
        name="item",
        dim=DIM,
        features=["a", "b"],
        pooling=pooling,
        optimizer=SGD(lr=1.0),
        seed=3,
        **settings_of(kind, ["a", "b"]),
    )
    collection = EmbeddingBagCollection([config, TableConfig(name="x", dim=2, optimizer=SGD(lr=1.0))])
    table, bags = collection.tables["item"], {}
    for name in ("a", "b", "x"):
        lengths = rng.integers(0, 5, 30).astype(np.int32)
        ids = rng.integers(0, 90, int(lengths.sum()))
        bags[name] = Bag(ids, lengths, rng.normal(size=len(ids)).astype(np.float32) if weighted else None)
    leaves = parts_of(table)
    expected = []
    for name in ("a", "b"):
        bag = bags[name]
        weights = torch.ones(len(bag.ids)) if bag.weights is None else torch.tensor(bag.weights)
        vectors = vectors_by_torch(leaves, config, salted(name, bag.ids))
        expected.append(pooled_by_torch(vectors, bag, weights, pooling))
    factor = torch.tensor(rng.normal(size=(30, config.vector_width("a"))), dtype=torch.float32)
    ours = collection.forward_bags(bags, 1_000)
    for name, vector in zip(("a", "b"), expected, strict=True):
        np.testing.assert_allclose(ours[name].detach(), vector.detach(), rtol=0, atol=1e-6)
    for vectors in ((ours["a"], ours["b"]), expected):
        ((vectors[0] * factor).sum() + (vectors[1].sin() * factor).sum()).backward()
    for part, leaf in zip(table.published().values(), leaves, strict=True):
        np.testing.assert_allclose(part.rows()[1], (leaf - leaf.grad).detach(), rtol=1e-5, atol=1e-5)


@each_kind
@pytest.mark.parametrize("model", ["lr", "fm", "deepfm", "widedeep", "mlp", "dcnv2", "dlrm"])
def test_any_model_takes_any_kind_and_learns_with_it(kind, model):
    if model == "lr" and kind in ("concat", "two probes"):
        pytest.skip("one weight an id has no two halves")
    dim = 1 if model == "lr" else DIM
    rows = dim // 2 if kind == "two probes" else dim
    features = [FeatureConfig(name="price", type="float")] if model == "dlrm" else []
    job = JobConfig(
        name="job",
        input=InputConfig(samples="memory://s"),
        tables=[
            TableConfig(name="user", dim=1 if model == "widedeep" else dim),
            TableConfig(name="item", dim=rows, **settings_of(kind, ["item"])),
        ],
        features=features,
        model=ModelConfig(kind=model, hidden=[8]),
    )
    learner, rng = Learner(job), np.random.default_rng(0)
    items = rng.integers(0, 20, 512)
    samples = [{"user": int(i % 3), "item": int(i)} | ({"price": 1.0} if features else {}) for i in items]
    batch = batch_of(job, samples, (items % 2).tolist())

    def loss() -> float:
        scores = np.clip(learner.score(batch).ravel(), 1e-6, 1 - 1e-6)
        return float(-np.log(np.where(items % 2, scores, 1 - scores)).mean())

    before = loss()
    for _ in range(60):
        learner.step(batch)
    assert loss() < 0.9 * before


def _table(kind: str) -> TableConfig:
    name = kind.replace(" ", "-")
    return TableConfig(name=name, dim=DIM // 2 if kind == "two probes" else DIM, **settings_of(kind, [name]))


def test_kinds_may_be_mixed_and_a_saved_learner_goes_on_to_the_same_bits(tmp_path):
    tables = [TableConfig(name="user", dim=DIM), *(_table(name) for name in KINDS)]
    job = JobConfig(
        name="job", input=InputConfig(samples="memory://s"), tables=tables, model=ModelConfig(kind="fm", hidden=[])
    )
    rng = np.random.default_rng(1)
    draws = rng.integers(0, 500, (400, len(tables)))
    samples = [dict(zip((t.name for t in tables), map(int, row), strict=True)) for row in draws]
    batch = batch_of(job, samples, (draws[:, 0] % 2).tolist())
    one = Learner(job)
    one.step(batch[:200])
    one.save(tmp_path / "kept")
    other = Learner(job)
    other.load(tmp_path / "kept")
    for learner, folder in ((one, "a"), (other, "b")):
        learner.step(batch[200:])
        assert learner.cut() == 1
        learner.save(tmp_path / folder)
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file())
    assert len(files) == 1 + 1 + 2 + 3 * 3 + 2 * 2 + 3  # dense; collisionless; hashed; qr; unified; cafe
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file


def test_gradients_of_weights_reach_torch_through_a_product():
    from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

    config = TableConfig(name="item", dim=4, optimizer=SGD(lr=0.0001), **KINDS["product"])
    collection = EmbeddingBagCollection([config])
    weights = torch.ones(3, requires_grad=True)
    ids = torch.tensor([1, 2, 1])
    rows = torch.tensor(collection.tables["item"].lookup(ids.numpy()))
    out = collection(KeyedJaggedTensor(["item"], ids, weights=weights, lengths=torch.tensor([2, 1])), 5)
    out.values().sum().backward()
    np.testing.assert_allclose(weights.grad, rows.sum(dim=1), rtol=1e-5, atol=1e-7)
