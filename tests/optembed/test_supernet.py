"""The supernet's masks, draws and gradients are those of their definition, and its state goes on bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from monolith.config import InputConfig, JobConfig, ModelConfig, TableConfig
from monolith.config.optimizers import SGD
from monolith.optembed.supernet import Supernet, searched, sizes, surrogate
from monolith.tables.batch import Bag, Batch

DIM = 4
TABLES = [
    TableConfig(name="ids", dim=DIM, kind="optembed", features=["a", "b"], pooling="mean", optimizer=SGD(lr=1.0)),
    TableConfig(name="c", dim=DIM, kind="optembed", optimizer=SGD(lr=1.0)),
    TableConfig(name="d", dim=DIM, kind="qr", rows=30, optimizer=SGD(lr=1.0)),
    TableConfig(name="e", dim=DIM, optimizer=SGD(lr=1.0)),
]


def job(**settings: object) -> JobConfig:
    model = ModelConfig(kind="mlp", hidden=[8])
    return JobConfig(name="j", input=InputConfig(samples="memory://s"), tables=TABLES, model=model, **settings)


def net(**settings: object) -> Supernet:
    return Supernet(job(**settings), alpha=0.3, threshold_lr=0.1)


def batch(seed: int, n: int = 24, ids: int = 15) -> Batch:
    rng = np.random.default_rng(seed)
    bags = {name: Bag(rng.integers(0, ids, n), np.ones(n, np.int32)) for name in "acde"}
    lengths = rng.integers(0, 4, n).astype(np.int32)
    bags["b"] = Bag(rng.integers(0, ids, int(lengths.sum())), lengths)
    times = np.arange(n) * 1000
    return Batch(
        bags=bags,
        dense={},
        labels=(rng.random((n, 1)) < 0.5).astype(np.float32),
        rates=np.ones(n, np.float32),
        event_time_ms=times,
        ingestion_time_ms=times,
        groups=np.zeros(n, np.int64),
        late=np.zeros(n, np.bool_),
    )


class Step(torch.autograd.Function):
    """1[u > 0] forward, the surrogate backward."""

    @staticmethod
    def forward(ctx, u):
        ctx.save_for_backward(u)
        return (u > 0).float()

    @staticmethod
    def backward(ctx, grad):
        (u,) = ctx.saved_tensors
        return grad * torch.from_numpy(surrogate(u.numpy()))


def test_the_surrogate_is_the_papers():
    u = np.array([0, 0.2, -0.2, 0.4, -0.4, 0.41, -0.41, 1, -1, 1.01, -1.01], np.float32)
    np.testing.assert_allclose(surrogate(u), [2, 1.2, 1.2, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4, 0, 0], atol=1e-6)


def test_only_tables_of_the_kind_are_searched():
    assert searched(job()) == ["ids", "c"]


def test_gradients_of_rows_and_thresholds_are_those_of_autograd():
    """SGD at rate 1 makes a step of minus the gradient; salted features, empty bags, means, repeated ids."""
    ours, given = net(), batch(1)
    ours.thresholds = {"ids": 0.026, "c": 0.022}  # of sizes about 0.025: some rows are masked
    ours.step(given)  # rows are made
    rows = {name: dict(zip(*[x.tolist() for x in t.published()[name].rows()], strict=True)) for name, t in tables(ours)}
    thresholds = {name: torch.tensor(t, requires_grad=True) for name, t in ours.thresholds.items()}
    leaves = {name: {i: torch.tensor(v, requires_grad=True) for i, v in own.items()} for name, own in rows.items()}
    prefixes = drawn(ours, len(given))
    vectors, read = [], {r.name: r for r in ours.reads}
    for name in ("ids", "c"):
        keys = read[name].keys(given.bags)
        at = 0
        for bag in keys.bags:
            values = torch.stack([leaves[name][i] for i in keys.ids[at : at + len(bag.ids)].tolist()])
            at += len(bag.ids)
            masked = values * Step.apply(values.abs().mean(1) - thresholds[name])[:, None]
            parts = torch.split(masked, bag.lengths.tolist())
            pooling = "mean" if name == "ids" else "sum"
            vectors.append(torch.stack([p.sum(0) / (max(1, len(p)) if pooling == "mean" else 1) for p in parts]))
    vectors = [vector * prefix for vector, prefix in zip(vectors, prefixes, strict=True)]
    others = torch.from_numpy(
        ours.collection._collection.lookup([given.bags[o.feature] for o in ours.collection.outputs])
    )
    matrix = torch.cat([*vectors, others[:, 3 * DIM :]], dim=1)
    from monolith.training.inputs import Inputs

    logits = ours.model(Inputs(matrix, ours.vectors, {}))
    labels = torch.from_numpy(given.labels[:, 0])
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels)
    loss = loss + sum(0.3 * torch.exp(-t) for t in thresholds.values())
    loss.backward()
    ours.step(given)
    for name, own in leaves.items():
        now = dict(zip(*[x.tolist() for x in ours.tables[name].published()[name].rows()], strict=True))
        for id_, leaf in own.items():
            grad = torch.zeros(DIM) if leaf.grad is None else leaf.grad
            np.testing.assert_allclose(now[id_], (leaf - grad).detach(), atol=2e-6)
        expected = thresholds[name] - 0.1 * thresholds[name].grad
        assert ours.thresholds[name] == pytest.approx(float(expected.detach()), abs=1e-6)


def tables(learner: Supernet):
    return [(name, learner.tables[name]) for name in ("ids", "c")]


def drawn(learner: Supernet, n: int) -> list[torch.Tensor]:
    """The prefixes of the next step."""
    rng = np.random.default_rng([learner.job.seed, 17, learner._steps + 1])
    return [
        torch.from_numpy((np.arange(DIM) < rng.integers(1, DIM + 1, n)[:, None]).astype(np.float32)) for _ in range(3)
    ]


def test_widths_are_drawn_uniformly_for_each_sample_and_feature():
    learner, counts = net(), np.zeros(DIM, int)
    given = batch(2, n=4000)
    for _ in range(3):
        learner._read(given, given.event_time_ms)
        for read in learner.reads:
            for prefix in read.prefixes:
                counts += np.bincount(prefix.sum(axis=1).astype(int) - 1, minlength=DIM)
    assert counts.sum() == 3 * 3 * 4000
    expected = counts.sum() / DIM
    assert ((counts - expected) ** 2 / expected).sum() < 16.3  # chi-square, 3 degrees of freedom, 0.1 %


def test_scores_are_of_whole_widths_with_the_masked_rows_at_zero_and_change_nothing():
    learner, given = net(), batch(3)
    learner.step(given)
    c = learner.tables["c"]
    ids, values = c.published()["c"].rows()
    learner.thresholds["c"] = float(np.median(sizes(values)))
    matrix = learner._read(given, None).matrix.numpy()
    expected = c.lookup(given.bags["c"].ids) * (sizes(c.lookup(given.bags["c"].ids)) > learner.thresholds["c"])[:, None]
    np.testing.assert_array_equal(matrix[:, 2 * DIM : 3 * DIM], expected)
    assert 0 < (expected == 0).all(axis=1).sum() < len(expected)
    before = learner.score(given)
    np.testing.assert_array_equal(learner.score(given), before)
    assert len(learner.tables["c"]) == len(ids)


def test_thresholds_without_a_gradient_follow_the_regulariser():
    learner = net()
    given, t = batch(4), 0.0
    for table in learner.reads:
        table.apply = lambda grads: 0.0
    for _ in range(50):
        learner.step(given)
        t += 0.1 * 0.3 * float(np.exp(-t))
    assert learner.thresholds == {"ids": pytest.approx(t), "c": pytest.approx(t)}


def test_a_saved_supernet_goes_on_with_the_same_bits(tmp_path):
    whole, again = net(), net()
    for seed in range(3):
        whole.step(batch(seed))
    whole.save(tmp_path)
    again.load(tmp_path)
    for seed in range(3, 6):
        np.testing.assert_array_equal(whole.step(batch(seed)), again.step(batch(seed)))
    assert whole.thresholds == again.thresholds
    assert whole.dense_state() == again.dense_state()
