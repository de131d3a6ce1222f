"""The collection in compiled and exported graphs: the same vectors, the same rows, bit by bit, as the eager one."""

from __future__ import annotations

import gc
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torchrec.models.deepfm import SimpleDeepFMNN
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from monolith.config import TableConfig
from monolith.config.admission import MinCount
from monolith.config.optimizers import SGD, Adagrad, Adam
from monolith.errors import InputError
from monolith.tables.batch import Bag
from monolith.training import compiled
from monolith.training.embeddings import EmbeddingBagCollection, EventTimes

TABLES = [
    TableConfig(name="user", dim=8, optimizer=Adagrad(lr=0.1), admission=MinCount(2)),
    TableConfig(name="movie", dim=4, features=["movie", "seen"], pooling="mean", optimizer=Adam(lr=0.01)),
]
BACKENDS = ["aot_eager", pytest.param("inductor", marks=pytest.mark.skipif(not shutil.which("c++"), reason="no C++"))]


class Model(torch.nn.Module):
    """A linear layer over the collection's vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.collection = EmbeddingBagCollection(TABLES)
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.linear = torch.nn.Linear(16, 1)

    def forward(self, batch: KeyedJaggedTensor, times: EventTimes = None) -> torch.Tensor:
        return self.linear(self.collection(batch, times).values())


class Unused(Model):
    def forward(self, batch: KeyedJaggedTensor) -> torch.Tensor:
        self.collection(batch)
        return self.linear(torch.ones(1, 16))


class Twice(Model):
    def forward(self, batch: KeyedJaggedTensor) -> torch.Tensor:
        return self.linear(self.collection(batch).values() + self.collection(batch).values())


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def jagged(seed: int, batch: int = 16, *, weighted: bool = False) -> KeyedJaggedTensor:
    """Bags of 0 to 3 ids, with one key too many and in another order than the tables'."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 4, (4, batch))
    total = int(lengths.sum())
    weights = torch.tensor(rng.random(total), dtype=torch.float32).requires_grad_() if weighted else None
    values, flat = torch.tensor(rng.integers(0, 20, total)), torch.tensor(lengths.reshape(-1), dtype=torch.int32)
    return KeyedJaggedTensor(keys=["seen", "movie", "other", "user"], values=values, lengths=flat, weights=weights)


def state(model: Model) -> list[bytes]:
    """Every row, and what happened to the tables."""
    tables = model.collection.tables.values()
    return [part.tobytes() for table in tables for part in table.rows()] + [
        repr((table.stats(), table.clock_ms)).encode() for table in tables
    ]


def pair(kind: type[Model] = Model, backend: str = "aot_eager") -> tuple[Model, Model, Callable[..., torch.Tensor]]:
    """An eager model, its twin, and the twin compiled whole: a break in its graph would be an error."""
    eager, twin = kind(), kind()
    return eager, twin, torch.compile(twin, backend=backend, fullgraph=True)


@pytest.mark.parametrize("backend", BACKENDS)
def test_compiled_model_trains_the_rows_of_the_eager_one(backend):
    eager, twin, fast = pair(backend=backend)
    for step, batch in enumerate([16, 16, 7, 30, 7, 16]):
        for model in (eager, fast):
            (model(jagged(step, batch)) ** 2).sum().backward()
        assert state(twin) == state(eager)
    assert len(eager.collection.tables["user"]) > 5
    eager.eval(), twin.eval()
    torch.testing.assert_close(fast(jagged(9)), eager(jagged(9)))
    assert state(twin) == state(eager)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_compiled_model_observes_in_the_modes_in_which_the_eager_one_does(training, mode):
    eager, twin, fast = pair()
    for step in range(4):
        for model, run in ((eager, eager), (twin, fast)):
            model.train(training)
            with mode():
                run(jagged(step))
        assert state(twin) == state(eager)
    assert (eager.collection.tables["user"].stats().observed > 0) == training


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", [Unused, Twice])
def test_lookups_are_neither_dropped_nor_merged(kind, backend):
    eager, twin, fast = pair(kind, backend)
    for step in range(3):
        for model in (eager, fast):
            (model(jagged(step)) ** 2).sum().backward()
    assert state(twin) == state(eager)
    once = sum(int((jagged(step).to_dict()["user"].lengths()).sum()) for step in range(3))
    assert twin.collection.tables["user"].stats().observed == once * (2 if kind is Twice else 1)


def test_weights_of_ids_get_the_gradient_of_the_eager_model():
    eager, twin, fast = pair()
    for step in range(3):
        batches = [jagged(step, weighted=True) for _ in range(2)]
        for model, batch in zip((eager, fast), batches, strict=True):
            (model(batch) ** 2).sum().backward()
        grads = [batch.weights().grad for batch in batches]
        torch.testing.assert_close(grads[0], grads[1])
        assert grads[0].any()
        assert state(twin) == state(eager)


def test_a_feature_of_two_tables_gives_its_weights_both_gradients():
    tables = [TableConfig(name=name, dim=4, features=["user"], optimizer=SGD(lr=0.1)) for name in ("wide", "deep")]
    grads, rows = [], []
    for compile_it in (False, True):
        collection = EmbeddingBagCollection(tables)
        batch = jagged(1, weighted=True)
        run = torch.compile(collection, backend="aot_eager", fullgraph=True) if compile_it else collection
        (run(batch).values() ** 2).sum().backward()
        grads.append(batch.weights().grad)
        rows.append([table.rows()[1].tobytes() for table in collection.tables.values()])
    torch.testing.assert_close(grads[0], grads[1])
    assert grads[0].any()
    assert rows[0] == rows[1]


def test_event_times_move_the_clocks_and_new_ones_need_no_new_graph():
    eager, twin, fast = pair()
    for step in range(6):
        for times in (1_000 * step, torch.arange(16) + 2_000 * step, np.arange(16) + 3_000 * step):
            for model in (eager, fast):
                (model(jagged(step), times) ** 2).sum().backward()
            assert state(twin) == state(eager)
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    fast(jagged(0), 99_000)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs
    assert twin.collection.tables["movie"].clock_ms == 99_000


def test_torchrec_model_is_compiled_whole():
    tables = [TableConfig(name=name, dim=8, optimizer=Adagrad(lr=0.1)) for name in ("user", "movie")]
    models = []
    for _ in range(2):
        torch.manual_seed(3)
        models.append(SimpleDeepFMNN(3, EmbeddingBagCollection(tables), hidden_layer_size=16, deep_fm_dimension=8))
    fast = torch.compile(models[1], backend="aot_eager", fullgraph=True)
    for step in range(3):
        for model in (models[0], fast):
            model(torch.ones(16, 3), jagged(step)).sum().backward()
    collections = [next(m for m in model.modules() if isinstance(m, EmbeddingBagCollection)) for model in models]
    for name in ("user", "movie"):
        ids, values = collections[0].tables[name].rows()
        assert collections[1].tables[name].lookup(ids).tobytes() == values.tobytes()


def test_bags_of_numpy_stay_outside_of_the_graph(bag):
    """The graph breaks there and for no other reason."""

    class OfBags(Model):
        def forward(self, bags: dict[str, Bag]) -> torch.Tensor:
            return self.linear(torch.cat(list(self.collection.forward_bags(bags).values()), dim=1).sin())

    eager, twin = OfBags(), OfBags()
    fast = torch.compile(twin, backend="aot_eager")
    for seed in range(3):
        rng = np.random.default_rng(seed)
        bags = {name: bag([list(rng.integers(0, 20, 2)) for _ in range(5)]) for name in ("user", "movie", "seen")}
        for model in (eager, fast):
            model(bags).sum().backward()
        assert state(twin) == state(eager)
    (reason,) = torch._dynamo.utils.counters["graph_break"]
    assert "calling function `<function forward_bags" in reason


def test_second_backward_through_a_compiled_step_is_refused():
    _, twin, fast = pair()
    loss = fast(jagged(0)).sum()
    loss.backward(retain_graph=True)
    before = state(twin)
    with pytest.raises(InputError, match="run forward again"):
        loss.backward()
    assert state(twin) == before


def test_step_whose_backward_never_comes_is_forgotten():
    _, _, fast = pair()
    fast(jagged(0)).sum().backward()
    gc.collect()
    before = len(compiled._tickets)
    out = fast(jagged(1))
    assert len(compiled._tickets) == before + 1
    del out
    gc.collect()
    assert len(compiled._tickets) == before


def test_other_tables_in_the_collections_place_are_read_by_the_same_graph():
    _, twin, fast = pair()
    fast(jagged(0))
    other = EmbeddingBagCollection(TABLES)
    twin.collection.replace_tables(other.tables)
    fast(jagged(0))
    assert len(other.tables["movie"]) > 0


@pytest.mark.parametrize("strict", [False, True])
def test_exported_program_reads_the_tables_of_its_process_and_no_others(strict):
    model = Model()
    model(jagged(0)).sum().backward()
    before = state(model)
    run = torch.export.export(model.eval(), (jagged(0),), strict=strict).module()
    read = run(jagged(0))
    assert torch.equal(read, model(jagged(0)))
    assert state(model) == before
    model.train()(jagged(0)).sum().backward()
    assert torch.equal(run(jagged(0)), model.eval()(jagged(0)))  # no rows are in the program: it reads them as they are
    assert not torch.equal(run(jagged(0)), read)
    del model
    gc.collect()
    with pytest.raises(InputError, match="not in this process"):
        run(jagged(0))


def test_export_in_training_mode_is_refused():
    """torch.export would leave the tables' backward out, and the program would train everything but them."""
    with pytest.raises(InputError, match=r"Call eval\(\) on the model"):
        torch.export.export(Model(), (jagged(0),), strict=False)


def test_importing_the_collection_does_not_import_the_compiler():
    """It takes as long as all of torch; a trainer, which compiles nothing, does without."""
    program = "import sys, monolith.training; sys.exit('torch._dynamo' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_missing_feature_is_named():
    _, _, fast = pair()
    batch = KeyedJaggedTensor(keys=["user"], values=torch.tensor([1]), lengths=torch.tensor([1]))
    with pytest.raises(Exception, match="movie"):
        fast(batch)
