"""The collection without torchrec: what a step does to the tables, and what comes out."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from monolith.config import TableConfig
from monolith.config.admission import MinCount, Never
from monolith.config.optimizers import SGD, Adagrad, Adam, RowWiseAdagrad
from monolith.config.table import FeatureRules
from monolith.errors import ConfigError, InputError, NonFiniteError
from monolith.tables.hashing import salted
from monolith.training.embeddings import EmbeddingBagCollection

VOCABULARY = np.arange(6, dtype=np.int64)


def filled(config: TableConfig) -> EmbeddingBagCollection:
    """A collection of one table that has a row for every id of the vocabulary."""
    collection = EmbeddingBagCollection([config])
    collection.tables[config.name].observe(VOCABULARY, event_time_ms=0)
    return collection


def twin(collection: EmbeddingBagCollection, mode: str) -> torch.nn.EmbeddingBag:
    """torch's own module with the same rows."""
    rows = torch.tensor(np.array(collection.tables["user"].lookup(VOCABULARY)))
    return torch.nn.EmbeddingBag.from_pretrained(rows, freeze=False, mode=mode, include_last_offset=True)


def offsets(lengths: np.ndarray) -> torch.Tensor:
    return torch.tensor(np.concatenate(([0], np.cumsum(lengths))))


OPTIMIZERS = {
    "sgd": (SGD(lr=0.1), lambda p: torch.optim.SGD(p, lr=0.1)),
    "adagrad": (
        Adagrad(lr=0.1, initial_accumulator=0.1, eps=1e-10),
        lambda p: torch.optim.Adagrad(p, lr=0.1, initial_accumulator_value=0.1, eps=1e-10),
    ),
    "adam": (Adam(lr=0.01), lambda p: torch.optim.Adam(p, lr=0.01)),
}


@pytest.mark.parametrize("pooling", ["sum", "mean"])
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_twenty_steps_equal_torchs_embedding_bag_and_optimizer(bag, kind, pooling):
    ours, theirs = OPTIMIZERS[kind]
    collection = filled(TableConfig(name="user", dim=4, optimizer=ours, pooling=pooling))
    reference = twin(collection, pooling)
    optimizer = theirs(reference.parameters())
    rng = np.random.default_rng(1)
    for _ in range(20):
        samples = [list(rng.permutation(6)), [], [3], [1, 1, 2], list(rng.integers(0, 6, 4))]  # every id, every step
        target = torch.tensor(rng.normal(size=(5, 4)), dtype=torch.float32)
        batch = bag(samples)
        out = collection.forward_bags({"user": batch})["user"]
        expected = reference(torch.tensor(batch.ids), offsets(batch.lengths))
        torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)
        ((out - target) ** 2).sum().backward()
        optimizer.zero_grad()
        ((expected - target) ** 2).sum().backward()
        optimizer.step()
    rows = torch.tensor(np.array(collection.tables["user"].lookup(VOCABULARY)))
    torch.testing.assert_close(rows, reference.weight.detach(), rtol=1e-4, atol=1e-5)


def test_weighted_bags_equal_torchs_per_sample_weights(bag, sgd_table):
    collection = filled(sgd_table())
    reference = twin(collection, "sum")
    batch = bag([[0, 1], [], [1, 1, 2]], weights=[[0.5, -2.0], [], [1.0, 3.0, 0.25]])
    out = collection.forward_bags({"user": batch})["user"]
    expected = reference(torch.tensor(batch.ids), offsets(batch.lengths), torch.tensor(batch.weights))
    torch.testing.assert_close(out, expected)
    (out**3).sum().backward()
    (expected**3).sum().backward()
    rows = torch.tensor(np.array(collection.tables["user"].lookup(VOCABULARY)))
    torch.testing.assert_close(rows, reference.weight.detach() - reference.weight.grad)


def test_weighted_mean_divides_by_the_number_of_ids(bag, sgd_table):
    collection = filled(sgd_table(pooling="mean"))
    rows = np.array(collection.tables["user"].lookup(VOCABULARY))
    out = collection.forward_bags({"user": bag([[0, 1]], weights=[[0.5, 3.0]])})["user"]
    np.testing.assert_allclose(out.detach().numpy()[0], (0.5 * rows[0] + 3.0 * rows[1]) / 2, rtol=1e-6)
    out.sum().backward()
    step = rows - collection.tables["user"].lookup(VOCABULARY)
    np.testing.assert_allclose(step[:3, 0], [0.25, 1.5, 0.0], rtol=1e-5, atol=1e-6)


def test_id_in_two_features_of_a_table_gets_one_step_on_the_summed_gradient(bag):
    config = TableConfig(
        name="movie", dim=2, features=["seen", "shown"], shared_ids=True, optimizer=RowWiseAdagrad(lr=0.5)
    )
    collection, alone = EmbeddingBagCollection([config]), EmbeddingBagCollection([config])
    bags = {"seen": bag([[7, 8], [7]]), "shown": bag([[7], [9]])}
    out = collection.forward_bags(bags)
    (out["seen"].sum() * 2 + out["shown"].sum() * 3).backward()
    table = alone.tables["movie"]
    ids = np.array([7, 8, 7, 7, 9])
    table.observe(ids, event_time_ms=None)
    table.apply_gradients(ids, np.array([[2, 2], [2, 2], [2, 2], [3, 3], [3, 3]], np.float32))
    np.testing.assert_array_equal(collection.tables["movie"].lookup(ids), table.lookup(ids))


def test_features_of_one_table_are_salted_apart(bag, sgd_table):
    collection = EmbeddingBagCollection([sgd_table("movie", features=["seen", "shown"])])
    out = collection.forward_bags({"seen": bag([[7]]), "shown": bag([[7]])})
    assert not torch.equal(out["seen"], out["shown"])
    key = salted("shown", np.array([7]))
    np.testing.assert_array_equal(out["shown"].detach().numpy(), collection.tables["movie"].lookup(key))


def test_each_feature_of_a_table_meets_its_own_rules(bag, sgd_table):
    rules = {"shown": FeatureRules(admission=MinCount(3))}
    config = sgd_table("movie", features=["seen", "shown"], per_feature=rules)
    collection = EmbeddingBagCollection([config])
    for admitted in (2, 2, 4):
        collection.forward_bags({"seen": bag([[7, 8]]), "shown": bag([[7, 8]])})
        assert len(collection.tables["movie"]) == admitted


def test_feature_that_the_loss_does_not_use_gets_no_step(bag, sgd_table):
    collection = EmbeddingBagCollection([sgd_table("movie", features=["seen", "shown"], optimizer=Adam(lr=1.0))])
    bags = {"seen": bag([[1], [2]]), "shown": bag([[1], [2]])}
    for _ in range(2):
        out = collection.forward_bags(bags)
        out["seen"].sum().backward()
    collection.eval()
    after = collection.forward_bags(bags)
    assert not torch.equal(after["seen"], out["seen"])
    assert torch.equal(after["shown"], out["shown"])


def test_empty_bag_reads_as_zeros_and_empty_batch_gives_no_rows(bag, sgd_table):
    collection = EmbeddingBagCollection([sgd_table()])
    assert not collection.forward_bags({"user": bag([[], []])})["user"].any()
    empty = collection.forward_bags({"user": bag([])})["user"]
    assert empty.shape == (0, 4)
    empty.sum().backward()
    assert collection.tables["user"].stats().rows == 0


def test_eval_forward_creates_and_counts_nothing(bag, sgd_table):
    collection = EmbeddingBagCollection([sgd_table(admission=MinCount(2))]).eval()
    for _ in range(3):
        assert not collection.forward_bags({"user": bag([[5]])}, 1_000)["user"].any()
    collection.train().forward_bags({"user": bag([[5]])}, 1_000)
    assert collection.tables["user"].stats().rows == 0  # the first occurrence that counts


def test_no_grad_forward_in_training_mode_admits_but_updates_nothing(bag, sgd_table):
    collection = EmbeddingBagCollection([sgd_table()])
    with torch.no_grad():
        first = collection.forward_bags({"user": bag([[5]])})["user"]
    assert not first.requires_grad
    assert collection.tables["user"].stats().rows == 1
    assert torch.equal(first, collection.forward_bags({"user": bag([[5]])})["user"])


def test_absent_id_gets_no_row_from_its_gradient(bag, sgd_table):
    collection = EmbeddingBagCollection([sgd_table(admission=Never())])
    collection.forward_bags({"user": bag([[5]])})["user"].sum().backward()
    assert collection.tables["user"].stats().rows == 0


def test_two_forwards_before_one_backward_are_two_steps(bag, sgd_table):
    once, twice = filled(sgd_table(optimizer=Adagrad(lr=0.5))), filled(sgd_table(optimizer=Adagrad(lr=0.5)))
    batch = {"user": bag([[1, 2]])}
    (twice.forward_bags(batch)["user"].sum() + twice.forward_bags(batch)["user"].sum()).backward()
    for _ in range(2):
        once.forward_bags(batch)["user"].sum().backward()
    np.testing.assert_array_equal(once.tables["user"].lookup(VOCABULARY), twice.tables["user"].lookup(VOCABULARY))


def test_second_backward_is_refused_and_changes_nothing(bag, sgd_table):
    collection = filled(sgd_table())
    loss = collection.forward_bags({"user": bag([[1, 2]])})["user"].sum()
    loss.backward(retain_graph=True)
    rows = np.array(collection.tables["user"].lookup(VOCABULARY))
    with pytest.raises(InputError, match="run forward again"):
        loss.backward()
    np.testing.assert_array_equal(rows, collection.tables["user"].lookup(VOCABULARY))


def test_nan_in_one_tables_gradient_leaves_every_table_unchanged(bag, sgd_table):
    collection = EmbeddingBagCollection([sgd_table("user"), sgd_table("movie")])
    bags = {"user": bag([[1], [2]]), "movie": bag([[1], [2]])}
    out = collection.forward_bags(bags)
    before = {name: np.array(table.lookup(np.array([1, 2]))) for name, table in collection.tables.items()}
    with pytest.raises(NonFiniteError, match=r"gradient of table 'movie' .* id number 1 of the batch"):
        (out["user"].sum() + (out["movie"] * torch.tensor([[1.0], [torch.nan]])).sum()).backward()
    for name, table in collection.tables.items():
        np.testing.assert_array_equal(before[name], table.lookup(np.array([1, 2])))


def test_huge_but_finite_gradients_are_applied(bag, sgd_table):
    collection = filled(sgd_table())
    out = collection.forward_bags({"user": bag([[1], [2], [3]])})["user"]
    (out * torch.tensor(3e38)).sum().backward()  # their sum is not a float32
    assert collection.tables["user"].lookup(np.array([2]))[0, 0] < -2e38


def test_skip_row_policy_is_left_to_the_table(bag, sgd_table):
    collection = filled(sgd_table(on_nonfinite="skip_row"))
    before = np.array(collection.tables["user"].lookup(VOCABULARY))
    out = collection.forward_bags({"user": bag([[1], [2]])})["user"]
    (out * torch.tensor([[torch.inf], [1.0]])).sum().backward()
    step = before - collection.tables["user"].lookup(VOCABULARY)
    assert not step[1].any()
    np.testing.assert_allclose(step[2], 1.0, rtol=1e-6)


def test_times_of_samples_move_the_clock_of_their_ids(bag, sgd_table):
    collection = EmbeddingBagCollection([sgd_table()])
    collection.forward_bags({"user": bag([[1, 2], [3]])}, np.array([5_000, 9_000]))
    assert collection.tables["user"].clock_ms == 9_000
    collection.forward_bags({"user": bag([[1, 2], []])}, torch.tensor([9_500, 99_000]))
    assert collection.tables["user"].clock_ms == 9_500  # a sample without ids shows this table nothing


@pytest.mark.parametrize("times", [np.array([1, 2, 3]), np.array([1.0, 2.0]), torch.tensor([[1, 2]])])
def test_times_of_wrong_shape_or_type_are_refused_before_anything_is_observed(bag, sgd_table, times):
    collection = EmbeddingBagCollection([sgd_table()])
    with pytest.raises(InputError, match="event_time_ms"):
        collection.forward_bags({"user": bag([[1], [2]])}, times)
    assert collection.tables["user"].stats().rows == 0


def test_missing_feature_is_named(bag, sgd_table):
    collection = EmbeddingBagCollection([sgd_table("user"), sgd_table("movie")])
    with pytest.raises(InputError, match=r"\['movie'\] are missing .* \['user'\]"):
        collection.forward_bags({"user": bag([[1]])})
    assert collection.tables["user"].stats().rows == 0


def test_batches_of_different_size_are_refused(bag, sgd_table):
    collection = EmbeddingBagCollection([sgd_table("user"), sgd_table("movie")])
    with pytest.raises(InputError, match="'movie' has 2 samples and feature 'user' has 1"):
        collection.forward_bags({"user": bag([[1]]), "movie": bag([[1], [2]])})


def test_a_feature_of_two_tables_has_a_vector_from_each(bag, sgd_table):
    collection = EmbeddingBagCollection(
        [sgd_table("wide", features=["user"], dim=1), sgd_table("deep", features=["user"])]
    )
    out = collection.forward_bags({"user": bag([[1], [2]])})
    assert {name: tuple(vector.shape) for name, vector in out.items()} == {"user@wide": (2, 1), "user@deep": (2, 4)}
    assert collection.dims == {"user@wide": 1, "user@deep": 4}


def test_rows_are_no_parameters(sgd_table):
    assert list(filled(sgd_table()).parameters()) == []


def test_copying_a_collection_is_refused(sgd_table):
    with pytest.raises(TypeError, match=r"Table\.save"):
        copy.deepcopy(EmbeddingBagCollection([sgd_table()]))


def test_two_tables_of_one_name_are_refused(sgd_table):
    with pytest.raises(ConfigError, match="user"):
        EmbeddingBagCollection([sgd_table(), sgd_table()])
