"""The dense part on another device than the CPU: all of it is there, and only what is meant to cross does.

No GPU is needed for that: torch's meta device, which computes nothing, stands in for one, and sees every operation of
forward and backward. What only a GPU can show is marked ``gpu``.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
import torch.distributed as dist
from batches import batch_of
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from monolith.config import DenseOptimizerConfig, InputConfig, JobConfig, ModelConfig, TableConfig, TaskConfig
from monolith.config.features import FeatureConfig
from monolith.config.job import TrainConfig
from monolith.config.sharding import ShardingConfig
from monolith.errors import ConfigError
from monolith.optembed.supernet import Supernet
from monolith.tables.batch import Batch
from monolith.training import devices, learner
from monolith.training.devices import ToHost, crossed, device_of, on_cpu, to_device
from monolith.training.learner import Learner
from monolith.training.sharding import group
from monolith.training.sharding.learner import DividedLearner, Part

aten = torch.ops.aten
META = torch.device("meta")
CUDA = pytest.param(
    "cuda",
    marks=[
        pytest.mark.gpu,
        pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device on this machine"),
    ],
)
N = 8
WIDTHS = {"lr": (1, 1), "fm": (3, 3), "deepfm": (3, 1), "widedeep": (3, 1), "dlrm": (3, 3)}  # others: any
KINDS = ["lr", "fm", "deepfm", "widedeep", "mlp", "dcnv2", "dlrm"]
LAYERS = ("deepfm", "widedeep", "mlp", "dcnv2", "dlrm")


def job_of(
    kind: str = "deepfm", device: str = "cpu", optimizer: str = "adam", tasks: int = 1, **model: Any
) -> JobConfig:
    layers = {"hidden": [8, 4]} if kind in LAYERS else {}
    return JobConfig(
        name="t",
        input=InputConfig(samples="memory://samples"),
        tables=[TableConfig(name=n, dim=d) for n, d in zip(("user", "item"), WIDTHS.get(kind, (4, 3)), strict=True)],
        features=[FeatureConfig(name="age", type="float")],
        labels=[TaskConfig(name=f"task{n}", loss="squared" if n else "log") for n in range(tasks)],
        model=ModelConfig(kind=kind, **{**layers, **model}),
        dense_optimizer=DenseOptimizerConfig(kind=optimizer),
        train=TrainConfig(device=device),
    )


def batch(job: JobConfig, number: int = 0, n: int = N, *, weighted: bool = False) -> Batch:
    rng = np.random.default_rng(number)
    samples = [{"user": int(u), "item": int(u) % 5, "age": float(u) / 9} for u in rng.integers(0, 9, n)]
    labels = rng.integers(0, 2, (n, len(job.labels))).astype(np.float32)
    weights = rng.random(labels.shape).astype(np.float32) if weighted else None
    return replace(batch_of(job, samples, labels[:, 0].tolist(), rates=[0.5] * n), labels=labels, label_weights=weights)


# --- a device that computes nothing -----------------------------------------------------------------------------------


class Watch(TorchDispatchMode):
    """Counts what crosses between the CPU and the meta device, and refuses an operation on tensors of both."""

    def __init__(self) -> None:
        super().__init__()
        self.crossed: Counter[tuple[str, tuple[int, ...]]] = Counter()  # (to where, shape)
        self.asked = 0  # numbers that the program waited for
        self.on_cpu: set[str] = set()  # operations

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        kinds = {tensor.device.type for tensor in tensors}
        if func is aten._local_scalar_dense.default and kinds == {"meta"}:
            self.asked += 1
            return True if tensors[0].dtype == torch.bool else 0.0
        if func is aten._to_copy.default and kinds == {"meta"} and kwargs.get("device") == torch.device("cpu"):
            self.crossed["here", tuple(tensors[0].shape)] += 1
            return torch.ones(tensors[0].shape, dtype=tensors[0].dtype)
        if func is aten._to_copy.default and kinds == {"cpu"} and kwargs.get("device") == META:
            self.crossed["there", tuple(tensors[0].shape)] += 1
        elif len(kinds) > 1:
            raise AssertionError(f"{func} takes tensors of {kinds}: {[tuple(t.shape) for t in tensors]}")
        elif kinds == {"cpu"}:
            self.on_cpu.add(func.overloadpacket.__name__)
        return None if "_fused_" in func.name() else func(*args, **kwargs)


class Here:
    """What came from the meta device is there at once."""

    def synchronize(self) -> None:
        pass


@pytest.fixture
def meta(monkeypatch: pytest.MonkeyPatch) -> None:
    """``device: cuda`` is the meta device."""
    for module in (learner, devices):
        monkeypatch.setattr(module, "device_of", lambda name: META if name == "cuda" else torch.device("cpu"))
    monkeypatch.setattr(devices._Cuda, "pinned", staticmethod(lambda tensor: tensor))
    monkeypatch.setattr(devices._Cuda, "mark", staticmethod(lambda _: Here()))
    monkeypatch.setattr(devices._Cuda, "generator", staticmethod(lambda _: torch.Generator()))


def widths(job: JobConfig) -> int:
    return sum(table.dim for table in job.tables)


# What may run on the CPU in a step: the tables' vectors become a tensor, columns are copied, predictions are made.
ON_CPU = {"lift_fresh", "detach", "clone", "_to_copy", "ones", "sigmoid", "where", "select", "view", "zeros", "empty"}
MODELS = [
    *((kind, {}) for kind in KINDS),
    ("mlp", {"norm": "batch", "dropout": 0.4}),
    ("dlrm", {"norm": "layer", "dropout": 0.4, "embedding_l2": 0.1}),
    ("dcnv2", {"norm": "batch", "cross_rank": 2}),
]


@pytest.mark.parametrize(("kind", "model"), MODELS)
@pytest.mark.usefixtures("meta")
def test_a_step_of_each_model_runs_on_the_device_and_only_inputs_and_results_cross(kind, model):
    job = job_of(kind, "cuda", **model)
    made = Learner(job)
    assert {tensor.device for tensor in made.model.state_dict().values()} == {META}
    assert {tensor.device for own in made.optimizer.weight_states().values() for tensor in own.values()} == {META}
    with Watch():
        made.step(batch(job))  # dlrm moves the places of its pairs once
    with Watch() as watch:
        made.step(batch(job))
    vectors, samples, numbers = (N, widths(job)), (N,), (N, 1)
    assert watch.crossed == {
        ("there", vectors): 1,
        ("there", numbers): 1,
        ("there", samples): 2,  # labels, and the shares that were kept
        ("here", samples): 1,  # what the model says
        ("here", vectors): 1,  # gradients
        **({("here", (4,)): 1} if model.get("norm") == "batch" else {}),  # whether statistics are finite
    }
    assert watch.asked == 1  # whether gradients are finite
    assert watch.on_cpu <= ON_CPU
    assert {weight.grad.device for weight in made.model.parameters()} == {META}


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.usefixtures("meta")
def test_losses_of_several_tasks_with_weights_are_computed_on_the_device(weighted):
    job = job_of("mlp", "cuda", tasks=2)
    made = Learner(job)
    with Watch() as watch:
        said = made.step(batch(job, weighted=weighted))
    assert said.shape == (N, 2)
    there = {shape: count for (where, shape), count in watch.crossed.items() if where == "there"}
    assert there == {(N, 7): 1, (N, 1): 1, (N,): 5 if weighted else 3}


@pytest.mark.parametrize("optimizer", ["sgd", "adagrad", "adam"])
@pytest.mark.usefixtures("meta")
def test_an_optimizer_keeps_its_moments_where_the_weights_are(optimizer):
    job = job_of("mlp", "cuda", optimizer)
    made = Learner(job)
    with Watch() as watch:
        made.step(batch(job))
    assert watch.asked == 1
    moments = [m for own in made.optimizer.weight_states().values() for name, m in own.items() if name != "step"]
    assert {tensor.device for tensor in [*moments, made.optimizer.gradients]} == {META}


@pytest.mark.usefixtures("meta")
def test_scores_and_steps_without_predictions_cross_no_more():
    job = job_of("mlp", "cuda")
    made = Learner(job)
    with Watch() as watch:
        made.learn(batch(job))
    assert watch.crossed["here", (N,)] == 0
    with Watch() as watch:
        assert made.score(batch(job)).shape == (N,)
    assert watch.crossed == {("there", (N, 7)): 1, ("there", (N, 1)): 1, ("here", (N,)): 1}


@contextmanager
def one_rank() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.usefixtures("meta")
def test_a_rank_sums_dense_gradients_where_they_are_and_sends_rows_from_main_memory(monkeypatch, exact):
    summed = []
    monkeypatch.setattr(dist, "all_reduce", lambda tensor, **_: summed.append(tensor.device))
    job = msgspec.structs.replace(job_of("mlp", "cuda"), sharding=ShardingConfig(exact=exact))
    with one_rank():
        made = DividedLearner(job)
        made._has_all = exact  # alone, a rank has all samples
        samples = batch(job)
        with Watch() as watch:
            said = made.train([Part(samples, N, [0.5])], asks=False)
    assert said is not None
    assert summed == ([] if exact else [META])
    assert watch.crossed["there", (N, 7)] == watch.crossed["here", (N, 7)] == 1


@pytest.mark.usefixtures("meta")
def test_a_supernet_is_searched_on_the_device_too():
    job = job_of("mlp", "cuda")
    tables = [msgspec.structs.replace(table, kind="optembed") for table in job.tables]
    made = Supernet(msgspec.structs.replace(job, tables=tables), alpha=0.1, threshold_lr=0.1)
    with Watch() as watch:
        made.step(batch(job))
    assert watch.crossed["there", (N, 7)] == watch.crossed["here", (N, 7)] == 1


# --- the job file -----------------------------------------------------------------------------------------------------


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Say how many GPUs there are, and what torchrun said."""

    def there_are(count: int, rank: int = 0, ranks: int = 1) -> None:
        monkeypatch.setattr(devices._Cuda, "count", staticmethod(lambda: count))
        monkeypatch.setattr(devices._Cuda, "taken", staticmethod(lambda number: torch.device("cuda", number)))
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))

    monkeypatch.delenv("LOCAL_RANK", raising=False)
    return there_are


def test_each_rank_of_a_machine_has_a_gpu_of_its_own(gpus):
    gpus(4)
    assert [str(device_of(name)) for name in ("cpu", "cuda", "cuda:3")] == ["cpu", "cuda:0", "cuda:3"]
    gpus(4, rank=2, ranks=4)
    assert str(device_of("cuda")) == "cuda:2"


@pytest.mark.parametrize(
    ("name", "there", "says"),
    [
        ("cuda", (0,), r"'cuda', and torch \S+ finds no CUDA device on this machine: .* train.device to cpu"),
        ("cuda:2", (2,), r"train.device, 'cuda:2', needs GPU 2, and torch sees 2, numbered from 0"),
        ("cuda", (2, 2, 3), "rank 2 of 3 on this machine needs GPU 2, and torch sees 2"),
        ("cuda:1", (2, 1, 2), "2 processes of this machine would share that GPU: set it to cuda"),
        ("gpu", (1,), "'gpu' is no device; allowed: cpu, cuda, or cuda:N"),
    ],
)
def test_a_device_that_is_not_there_is_refused_with_the_reason(gpus, name, there, says):
    gpus(*there)
    with pytest.raises(ConfigError, match=says):
        Learner(job_of(device=name))


def ranks_of(jobs: list[JobConfig], lacks: int | None, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The process groups' backend of each of the ranks, or what it is told; one may lack its GPU."""
    lacking, store = threading.local(), dist.HashStore()

    def device(name: str) -> torch.device:
        if lacking.here:
            raise ConfigError("no GPU here")
        return torch.device(name)

    def told(rank: int) -> str:
        lacking.here = rank == lacks
        try:
            return group._backend(jobs[rank], store, rank, len(jobs))
        except ConfigError as error:
            return str(error)

    monkeypatch.setattr(group, "device_of", device)
    with ThreadPoolExecutor(len(jobs)) as threads:
        return [*threads.map(told, range(len(jobs)))]


def test_ranks_with_gpus_add_gradients_by_nccl_and_send_rows_by_gloo(monkeypatch):
    assert ranks_of([job_of()] * 2, None, monkeypatch) == ["gloo"] * 2
    assert ranks_of([job_of(device="cuda")] * 2, None, monkeypatch) == ["cpu:gloo,cuda:nccl"] * 2


def test_a_rank_without_its_gpu_or_with_another_device_is_named_on_all_ranks(monkeypatch):
    assert ranks_of([job_of(device="cuda")] * 3, 1, monkeypatch) == ["rank 1: no GPU here"] * 3
    one, other = ranks_of([job_of(), job_of(device="cuda")], None, monkeypatch)
    assert one.startswith("rank 1 differs from rank 0: job: train.device is 'cuda', not 'cpu'. Start every rank")
    assert other.startswith("rank 0 differs from rank 1: job: train.device is 'cpu', not 'cuda'. Start every rank")


def test_on_the_cpu_nothing_is_copied():
    tensor, model = torch.ones(2, requires_grad=True), torch.nn.Linear(2, 1)
    cpu = torch.device("cpu")
    assert to_device(tensor, cpu) is tensor
    assert crossed(tensor, cpu) is tensor
    assert ToHost(tensor).wait() is tensor
    assert on_cpu(model) is model


# --- with a GPU -------------------------------------------------------------------------------------------------------


def trained(job: JobConfig, steps: int = 4, state: bytes = b"") -> Learner:
    made = Learner(job)
    if state:
        made.load_dense_state(state)
    for number in range(steps):
        made.step(batch(job, number))
    return made


@pytest.mark.parametrize("device", ["cpu", CUDA])
@pytest.mark.parametrize("optimizer", ["sgd", "adagrad", "adam"])
def test_a_dense_state_goes_to_the_cpu_and_back(device, optimizer):
    model = {"norm": "batch", "dropout": 0.4}
    first = trained(job_of("mlp", device, optimizer, **model))
    second = trained(job_of("mlp", "cpu", optimizer, **model), 0, first.dense_state())
    assert second.dense_state() == first.dense_state()
    third = trained(job_of("mlp", device, optimizer, **model), 0, second.dense_state())
    assert third.dense_state() == first.dense_state()


@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_a_device_gives_the_same_bits_twice_and_nearly_those_of_the_cpu(device):
    once, twice = (trained(job_of("dcnv2", device, norm="batch", dropout=0.4)) for _ in range(2))
    assert once.dense_state() == twice.dense_state()
    made, plain = trained(job_of("dcnv2", device)), trained(job_of("dcnv2"))
    assert np.allclose(made.score(batch(made.job, 9)), plain.score(batch(plain.job, 9)), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_what_a_device_publishes_passes_the_check_of_its_graph(device, tmp_path):
    made = trained(job_of("dlrm", device))
    made.export(tmp_path)
    delta = made.delta(0, sequence=made.cut(), step=4, watermark_ms=0, ingested_ms=np.zeros(0, np.int64))
    assert (
        delta.dense
        == trained(job_of("dlrm"), 0, made.dense_state())
        .delta(0, sequence=1, step=4, watermark_ms=0, ingested_ms=np.zeros(0, np.int64))
        .dense
    )
