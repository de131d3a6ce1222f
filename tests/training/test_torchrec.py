"""In place of torchrec's EmbeddingBagCollection: the same numbers, and torchrec's own models train on it."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
import torch
from torchrec.models.deepfm import SimpleDeepFMNN
from torchrec.models.dlrm import DLRM
from torchrec.modules.embedding_configs import EmbeddingBagConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection as TorchrecCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from monolith.config import TableConfig
from monolith.config.optimizers import SGD, Adagrad
from monolith.errors import InputError
from monolith.training.embeddings import EmbeddingBagCollection

ROWS = 20
TABLES = [
    TableConfig(name="user", dim=8, optimizer=SGD(lr=0.1)),
    TableConfig(
        name="movie", dim=8, features=["movie", "seen"], shared_ids=True, pooling="mean", optimizer=SGD(lr=0.1)
    ),
]


def jagged(seed: int = 0, batch: int = 16, weighted: bool = False) -> KeyedJaggedTensor:
    """Bags of 0 to 3 ids for seen, movie and user, in another order than the tables', and one key too many."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 4, (4, batch))
    total = int(lengths.sum())
    return KeyedJaggedTensor(
        keys=["seen", "movie", "other", "user"],
        values=torch.tensor(rng.integers(0, ROWS, total)),
        lengths=torch.tensor(lengths.reshape(-1), dtype=torch.int32),
        weights=torch.tensor(rng.random(total), dtype=torch.float32) if weighted else None,
    )


def pair(tables: list[TableConfig], *, weighted: bool = False) -> tuple[EmbeddingBagCollection, TorchrecCollection]:
    """Ours, with a row for every id, and torchrec's with the same rows."""
    ours = EmbeddingBagCollection(tables)
    theirs = TorchrecCollection(
        [
            EmbeddingBagConfig(
                name=t.name,
                embedding_dim=t.dim,
                num_embeddings=ROWS,
                feature_names=t.feature_names(),
                pooling=PoolingType.SUM if t.pooling == "sum" else PoolingType.MEAN,
            )
            for t in tables
        ],
        is_weighted=weighted,
    )
    ids = np.arange(ROWS)
    for table in tables:
        ours.tables[table.name].observe(ids, event_time_ms=0)
        rows = torch.tensor(np.array(ours.tables[table.name].lookup(ids)))
        theirs.embedding_bags[table.name].weight.data.copy_(rows)
    return ours, theirs


def assert_same_rows(ours: EmbeddingBagCollection, theirs: TorchrecCollection) -> None:
    for name, table in ours.tables.items():
        rows = torch.tensor(np.array(table.lookup(np.arange(ROWS))))
        torch.testing.assert_close(rows, theirs.embedding_bags[name].weight.detach(), rtol=1e-4, atol=1e-6)


def test_keyed_tensor_and_sgd_steps_equal_torchrecs():
    ours, theirs = pair(TABLES)
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.1)
    for step in range(5):
        batch = jagged(step)
        out, expected = ours(batch), theirs(batch)
        assert out.keys() == expected.keys()
        assert out.length_per_key() == expected.length_per_key()
        torch.testing.assert_close(out.values(), expected.values())
        (out.values() ** 2).sum().backward()
        optimizer.zero_grad()
        (expected.values() ** 2).sum().backward()
        optimizer.step()
    assert_same_rows(ours, theirs)


def test_weights_of_ids_get_the_gradient_that_torchrec_gives_them():
    tables = [TableConfig(name="movie", dim=8, features=["movie", "seen"], shared_ids=True, optimizer=SGD(lr=0.1))]
    ours, theirs = pair(tables, weighted=True)
    gradients = []
    for collection in (ours, theirs):
        batch = jagged(weighted=True)
        batch.weights().requires_grad_()
        (collection(batch).values() ** 3).sum().backward()
        gradients.append(batch.weights().grad)
    assert gradients[0].any()
    torch.testing.assert_close(gradients[0], gradients[1])


def train(model: torch.nn.Module, steps: int = 40) -> list[float]:
    """Losses of a model that must learn the parity of a user's ids from the sparse side."""
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for step in range(steps):
        batch = jagged(step % 4)
        user = batch.to_dict()["user"]
        sums = torch.segment_reduce(user.values().float(), "sum", lengths=user.lengths().long())
        out = model(torch.ones(16, 3), batch).squeeze(1)
        loss = (out - sums % 2).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def deepfm(collection: torch.nn.Module) -> torch.nn.Module:
    torch.manual_seed(3)
    return SimpleDeepFMNN(3, collection, hidden_layer_size=16, deep_fm_dimension=8)


def dlrm(collection: torch.nn.Module) -> torch.nn.Module:
    torch.manual_seed(3)
    return DLRM(collection, dense_in_features=3, dense_arch_layer_sizes=[16, 8], over_arch_layer_sizes=[16, 1])


@pytest.mark.parametrize("build", [deepfm, dlrm])
def test_torchrec_model_trains_on_our_tables(build):
    tables = [msgspec.structs.replace(table, optimizer=Adagrad(lr=0.1)) for table in TABLES]
    losses = train(build(EmbeddingBagCollection(tables)), steps=80)
    frozen = train(
        build(EmbeddingBagCollection([msgspec.structs.replace(t, optimizer=SGD(lr=1e-9)) for t in TABLES])), 80
    )
    assert np.mean(losses[-4:]) < 0.5 * np.mean(losses[:4])
    assert np.mean(losses[-4:]) < 0.5 * np.mean(frozen[-4:])


def test_torchrec_deepfm_takes_the_same_course_on_ours_as_on_torchrecs():
    ours, theirs = pair(TABLES)
    theirs_model = deepfm(theirs)
    dense = [p for name, p in theirs_model.named_parameters() if "embedding_bags" not in name]
    losses = train(deepfm(ours), steps=8)
    optimizers = [torch.optim.Adam(dense, lr=0.01), torch.optim.SGD(theirs.parameters(), lr=0.1)]
    expected = []
    for step in range(8):
        batch = jagged(step % 4)
        user = batch.to_dict()["user"]
        sums = torch.segment_reduce(user.values().float(), "sum", lengths=user.lengths().long())
        loss = (theirs_model(torch.ones(16, 3), batch).squeeze(1) - sums % 2).square().mean()
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        expected.append(loss.item())
    np.testing.assert_allclose(losses, expected, rtol=1e-4)


def test_configs_as_torchrec_wants_them():
    collection = EmbeddingBagCollection(TABLES)
    configs = collection.embedding_bag_configs()
    assert [(c.name, c.embedding_dim, c.feature_names, c.pooling) for c in configs] == [
        ("user", 8, ["user"], PoolingType.SUM),
        ("movie", 8, ["movie", "seen"], PoolingType.MEAN),
    ]
    assert collection.is_weighted()
    assert collection.device == torch.device("cpu")


def test_feature_missing_from_the_keys_is_named():
    collection = EmbeddingBagCollection(TABLES)
    batch = KeyedJaggedTensor(keys=["user"], values=torch.tensor([1]), lengths=torch.tensor([1]))
    with pytest.raises(InputError, match=r"\['movie', 'seen'\] are missing"):
        collection(batch)


def test_float_ids_and_lengths_that_do_not_add_up_are_refused():
    collection = EmbeddingBagCollection([TABLES[0]])
    with pytest.raises(InputError, match="float32"):
        collection(KeyedJaggedTensor(keys=["user"], values=torch.tensor([1.0]), lengths=torch.tensor([1])))
    with pytest.raises(InputError, match="add up to 2"):
        collection(KeyedJaggedTensor(keys=["user"], values=torch.tensor([1]), lengths=torch.tensor([2])))


def test_int32_ids_are_the_same_ids():
    collection = EmbeddingBagCollection([TABLES[0]])
    lengths = torch.tensor([1, 2])
    wide = collection(KeyedJaggedTensor(keys=["user"], values=torch.tensor([4, 5, 6]), lengths=lengths))
    narrow = collection(
        KeyedJaggedTensor(keys=["user"], values=torch.tensor([4, 5, 6], dtype=torch.int32), lengths=lengths)
    )
    assert torch.equal(wide.values(), narrow.values())


def test_times_of_samples_reach_the_ids():
    collection = EmbeddingBagCollection(TABLES)
    collection(jagged(batch=4), torch.tensor([1_000, 2_000, 3_000, 4_000]))
    assert collection.tables["movie"].clock_ms in (3_000, 4_000)
