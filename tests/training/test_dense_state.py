"""Dense weights and moments as bytes: bit-exact continuation, also in another process; what does not fit is refused."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load, save

from monolith.config import DenseOptimizerConfig
from monolith.errors import CorruptError
from monolith.training.dense_optimizer import DenseOptimizer
from monolith.training.dense_state import dense_weights, load_dense_state, load_dense_weights, save_dense_state

RUN = """
import hashlib, sys, torch
from monolith.config import DenseOptimizerConfig
from monolith.training.dense_optimizer import DenseOptimizer
from monolith.training.dense_state import load_dense_state, save_dense_state
from monolith.training.determinism import deterministic
deterministic(threads=1)
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(37, 50), torch.nn.ReLU(), torch.nn.Linear(50, 1))
optimizer = DenseOptimizer(DenseOptimizerConfig(kind=sys.argv[1]), model)
for step in range(20):
    if step == int(sys.argv[2]):
        data = save_dense_state(model, optimizer)
        model = torch.nn.Sequential(torch.nn.Linear(37, 50), torch.nn.ReLU(), torch.nn.Linear(50, 1))
        optimizer = DenseOptimizer(DenseOptimizerConfig(kind=sys.argv[1]), model)
        load_dense_state(model, optimizer, data)
    inputs = torch.randn(33, 37, generator=torch.Generator().manual_seed(step))
    optimizer.zero_grad()
    model(inputs).square().mean().backward()
    optimizer.step()
print(hashlib.sha256(save_dense_state(model, optimizer)).hexdigest())
"""


def small(seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(37, 50), torch.nn.ReLU(), torch.nn.Linear(50, 1))


def optimizer_for(model: torch.nn.Module, kind: str = "adam") -> DenseOptimizer:
    return DenseOptimizer(DenseOptimizerConfig(kind=kind), model)


def train(model: torch.nn.Module, optimizer: DenseOptimizer | torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        inputs = torch.randn(33, 37, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        model(inputs).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("kind", ["sgd", "adagrad", "adam"])
@pytest.mark.parametrize("cut", [0, 7])
def test_continued_run_has_the_bits_of_an_unbroken_one(kind, cut):
    whole = small()
    whole_optimizer = optimizer_for(whole, kind)
    train(whole, whole_optimizer, range(20))
    first = small()
    first_optimizer = optimizer_for(first, kind)
    train(first, first_optimizer, range(cut))
    second = small(seed=1)
    second_optimizer = optimizer_for(second, kind)
    load_dense_state(second, second_optimizer, save_dense_state(first, first_optimizer))
    train(second, second_optimizer, range(cut, 20))
    assert save_dense_state(whole, whole_optimizer) == save_dense_state(second, second_optimizer)


def test_other_processes_end_in_the_same_bits_continued_or_not():
    runs = [[sys.executable, "-c", RUN, "adam", cut] for cut in ("-1", "11")]
    processes = [subprocess.Popen(run, stdout=subprocess.PIPE, text=True) for run in runs]
    hashes = {process.communicate(timeout=60)[0] for process in processes}
    assert all(process.returncode == 0 for process in processes)
    assert len(hashes) == 1
    assert len(hashes.pop().strip()) == hashlib.sha256().digest_size * 2


def test_fused_optimizers_make_the_step_of_torchs_plain_ones():
    for kind, plain in [("sgd", torch.optim.SGD), ("adagrad", torch.optim.Adagrad), ("adam", torch.optim.Adam)]:
        ours, theirs = small(), small()
        config = DenseOptimizerConfig(kind=kind, lr=0.01, weight_decay=0.1)
        train(ours, DenseOptimizer(config, ours), range(10))
        train(theirs, plain(theirs.parameters(), lr=0.01, weight_decay=0.1), range(10))
        for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize("kind", ["sgd", "adagrad", "adam"])
@pytest.mark.parametrize("cut", [0, 7])
def test_state_of_a_torch_optimizer_with_a_state_for_each_weight_goes_on(kind, cut):
    """Snapshots of before the weights lay in one run of memory."""
    plain = {"sgd": torch.optim.SGD, "adagrad": torch.optim.Adagrad, "adam": torch.optim.Adam}[kind]
    theirs, ours = small(), small(seed=1)
    optimizer = plain(theirs.parameters(), lr=0.01, fused=True)
    train(theirs, optimizer, range(cut))
    kept = {f"model.{name}": weight.detach().clone() for name, weight in theirs.named_parameters()}
    for name, weight in theirs.named_parameters():
        kept |= {f"optimizer.{name}.{key}": value.clone() for key, value in optimizer.state[weight].items()}
    own = DenseOptimizer(DenseOptimizerConfig(kind=kind, lr=0.01), ours)
    train(ours, own, range(3))
    load_dense_state(ours, own, save(kept, metadata={"optimizer": plain.__name__}))
    train(theirs, optimizer, range(cut, cut + 5))
    train(ours, own, range(cut, cut + 5))
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_loading_ends_with_the_same_bytes_and_is_independent_of_them():
    model = small()
    optimizer = optimizer_for(model)
    train(model, optimizer, range(3))
    data = save_dense_state(model, optimizer)
    load_dense_state(model, optimizer, data)
    assert save_dense_state(model, optimizer) == data
    train(model, optimizer, range(3, 4))
    assert save_dense_state(model, optimizer) != data


@pytest.fixture
def trained() -> tuple[torch.nn.Module, DenseOptimizer, dict[str, torch.Tensor]]:
    model = small()
    optimizer = optimizer_for(model)
    train(model, optimizer, range(3))
    return model, optimizer, load(save_dense_state(model, optimizer))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("model.0.bias"), r"lacks weight '0\.bias'"),
        (lambda t: t.pop("optimizer.2.weight.exp_avg"), r"lacks optimizer tensor 'optimizer\.2\.weight\.exp_avg'"),
        (lambda t: t.update({"model.9.bias": torch.zeros(1)}), r"'9\.bias', which this model does not have"),
        (lambda t: t.update({"optimizer.0.bias.sum": torch.zeros(50)}), r"optimizer\.0\.bias\.sum"),
        (lambda t: t.update({"model.0.bias": torch.zeros(49)}), r"'0\.bias' .* \(49,\), the model has .* \(50,\)"),
        (lambda t: t.update({"model.0.bias": torch.zeros(50, dtype=torch.float64)}), "float64"),
        (lambda t: t["optimizer.2.bias.step"].add_(1), r"counts .*'2\.bias': 4.* steps, one number for all"),
    ],
)
def test_state_that_does_not_fit_is_refused_naming_the_tensor_and_changes_nothing(trained, change, message):
    model, optimizer, tensors = trained
    before = save_dense_state(model, optimizer)
    change(tensors)
    with pytest.raises(CorruptError, match=message):
        load_dense_state(model, optimizer, save(tensors, metadata={"optimizer": "Adam"}))
    assert save_dense_state(model, optimizer) == before


def test_state_of_another_optimizer_is_refused(trained):
    model, optimizer, _ = trained
    with pytest.raises(CorruptError, match="of optimizer Adam, the job has SGD"):
        load_dense_state(model, optimizer_for(model, "sgd"), save_dense_state(model, optimizer))


@pytest.mark.parametrize("data", [b"", b"\xff" * 100])
def test_bytes_that_are_no_safetensors_file_are_refused(trained, data):
    model, optimizer, _ = trained
    with pytest.raises(CorruptError, match="safetensors"):
        load_dense_state(model, optimizer, data)


def test_weights_of_a_module_without_any_are_empty():
    empty = torch.nn.ReLU()
    assert dense_weights(empty) == b""
    load_dense_weights(empty, b"")
    with pytest.raises(CorruptError, match=r"lacks weight"):
        load_dense_weights(small(), b"")
