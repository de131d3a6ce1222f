"""What people do to torch modules, done to a collection: right, or refused in words that say what to do instead."""

from __future__ import annotations

import copy
import io
import pickle

import numpy as np
import pytest
import torch

from monolith.config.admission import MinCount
from monolith.config.optimizers import SGD, Adagrad
from monolith.errors import ConfigError, InputError
from monolith.tables import Table
from monolith.training.embeddings import EmbeddingBagCollection

IDS = np.arange(6)


@pytest.fixture
def collection(sgd_table) -> EmbeddingBagCollection:
    """Of one table with a row for each of six ids."""
    made = EmbeddingBagCollection([sgd_table()])
    made.tables["user"].observe(IDS, event_time_ms=0)
    return made


def rows(collection: EmbeddingBagCollection) -> np.ndarray:
    return np.array(collection.tables["user"].lookup(IDS))


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_training_mode_observes_and_a_backward_updates(bag, sgd_table, training, mode):
    """As in BatchNorm: `train` and `eval` say whether state moves, `no_grad` only that there is no backward."""
    collection = EmbeddingBagCollection([sgd_table(admission=MinCount(2))]).train(training)
    with mode():
        for _ in range(2):
            out = collection.forward_bags({"user": bag([[1]])}, 1_000)["user"]
    table = collection.tables["user"]
    assert (len(table), table.stats().observed, table.clock_ms > 0) == ((1, 2, True) if training else (0, 0, False))
    assert out.requires_grad == (training and mode is torch.enable_grad)


CASTS = {
    "double": (lambda module: module.double(), torch.float64),
    "half": (lambda module: module.half(), torch.float16),
    "bfloat16": (lambda module: module.to(torch.bfloat16), torch.bfloat16),
    "and back": (lambda module: module.double().float(), torch.float32),
}


@pytest.mark.parametrize("name", CASTS)
def test_a_cast_model_gets_vectors_of_its_type_and_rows_stay_float32(bag, sgd_table, name):
    cast, dtype = CASTS[name]
    model = torch.nn.ModuleList([EmbeddingBagCollection([sgd_table()]), torch.nn.Linear(4, 1)])
    cast(model)
    collection, linear = model
    collection.tables["user"].observe(IDS)
    before = rows(collection)
    out = collection.forward_bags({"user": bag([[1], [2, 3]])})["user"]
    assert out.dtype == dtype
    linear(out).sum().backward()
    step = before - rows(collection)
    weight = linear.weight.detach().float().numpy()[0]
    np.testing.assert_array_equal(step[1:4], before[1:4] - (before[1:4] - weight))
    assert not step[[0, 4, 5]].any()
    assert collection.eval().forward_bags({"user": bag([[1]])})["user"].dtype == dtype
    with torch.no_grad():
        assert collection.train().forward_bags({"user": bag([[1]])})["user"].dtype == dtype


def test_vectors_come_out_on_the_models_device(bag, collection):
    assert collection.device == torch.device("cpu")
    collection.to("meta")
    assert collection.device == torch.device("meta")
    assert collection.forward_bags({"user": bag([[1]])})["user"].device == torch.device("meta")


def test_autocast_gives_the_tables_float32_gradients(bag, collection):
    linear = torch.nn.Linear(4, 1)
    before = rows(collection)
    with torch.autocast("cpu", torch.bfloat16):
        logits = linear(collection.forward_bags({"user": bag([[1]])})["user"])
    assert logits.dtype == torch.bfloat16
    logits.float().sum().backward()
    expected = linear.weight.detach().bfloat16().float().numpy()[0]
    np.testing.assert_allclose((before - rows(collection))[1], expected, rtol=1e-5, atol=1e-7)


def test_two_backwards_are_two_steps_and_one_batch_of_both_is_one(bag, sgd_table):
    """Accumulating gradients over micro-batches steps the tables at each; their concatenation steps them once."""

    def adagrad() -> EmbeddingBagCollection:
        return EmbeddingBagCollection([sgd_table(optimizer=Adagrad(lr=0.1))])

    apart, together, twice = adagrad(), adagrad(), adagrad()
    for _ in range(2):
        apart.forward_bags({"user": bag([[1]])})["user"].sum().backward()
        table = twice.tables["user"]
        table.observe(np.array([1]))
        table.apply_gradients(np.array([1]), np.ones((1, 4), np.float32))
    together.forward_bags({"user": bag([[1], [1]])})["user"].sum().backward()
    assert rows(apart).tobytes() == rows(twice).tobytes()
    assert rows(apart).tobytes() != rows(together).tobytes()


def test_zero_grad_takes_no_step_back_and_a_torch_optimizer_finds_nothing(bag, collection):
    collection.forward_bags({"user": bag([[1]])})["user"].sum().backward()
    before = rows(collection)
    collection.zero_grad()
    assert rows(collection).tobytes() == before.tobytes()
    with pytest.raises(ValueError, match="empty parameter list"):
        torch.optim.SGD(collection.parameters(), lr=0.1)


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": pickle.dumps,
    "torch.save": lambda model: torch.save(model, io.BytesIO()),
    "AveragedModel": torch.optim.swa_utils.AveragedModel,
}


@pytest.mark.parametrize("name", COPIES)
def test_copying_a_model_is_refused_with_what_to_do_instead(collection, name):
    model = torch.nn.Sequential(torch.nn.Linear(4, 1), collection)
    with pytest.raises(TypeError, match=r"load_state_dict\(collection\.state_dict\(\)\)"):
        COPIES[name](model)


def test_what_the_refusal_says_to_do_carries_every_row(collection, sgd_table, tmp_path):
    other = EmbeddingBagCollection([sgd_table()])
    other.load_state_dict(collection.state_dict())
    assert rows(other).tobytes() == rows(collection).tobytes()
    collection.tables["user"].save(tmp_path)
    other.replace_tables({"user": Table.open(tmp_path)})
    assert rows(other).tobytes() == rows(collection).tobytes()


def test_freezing_by_requires_grad_is_refused_and_eval_freezes(bag, collection):
    with pytest.raises(InputError, match=r"call eval\(\) on it"):
        collection.requires_grad_(False)
    before = rows(collection)
    out = collection.eval().forward_bags({"user": bag([[1]])})["user"]
    assert not out.requires_grad
    assert rows(collection).tobytes() == before.tobytes()
    assert collection.requires_grad_() is collection


def test_data_parallel_is_refused(collection):
    with pytest.raises(ConfigError, match="DataParallel"):
        collection._replicate_for_data_parallel()


def test_retained_graph_refuses_its_second_backward_and_another_forward_goes_on(bag, sgd_table):
    collection = EmbeddingBagCollection([sgd_table(optimizer=SGD(lr=1.0))])
    loss = collection.forward_bags({"user": bag([[1]])})["user"].sum()
    loss.backward(retain_graph=True)
    with pytest.raises(InputError, match="run forward again"):
        loss.backward()
    before = rows(collection)
    collection.forward_bags({"user": bag([[1]])})["user"].sum().backward()
    assert rows(collection)[1].tobytes() == (before[1] - np.float32(1)).tobytes()


def test_sharing_memory_between_processes_is_refused(collection):
    with pytest.raises(InputError, match="each process would train rows of its own"):
        torch.nn.Sequential(collection).share_memory()


def test_tracing_is_refused_since_it_would_take_vectors_for_constants(bag, collection):
    class OfTensor(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + collection.forward_bags({"user": bag([[1]])})["user"]

    with pytest.raises(InputError, match=r"use torch\.export"):
        torch.jit.trace(OfTensor(), torch.ones(1, 4))


def test_gradients_that_are_only_asked_for_step_nothing(bag, collection):
    """As `torch.autograd.grad` leaves every parameter's `grad` alone."""
    linear, before = torch.nn.Linear(4, 1), rows(collection)
    loss = linear(collection.forward_bags({"user": bag([[1]])})["user"]).sum()
    torch.autograd.grad(loss, linear.weight, retain_graph=True)
    loss.backward(inputs=[linear.weight], retain_graph=True)
    assert rows(collection).tobytes() == before.tobytes()
    loss.backward()
    assert rows(collection)[1].tobytes() != before[1].tobytes()
