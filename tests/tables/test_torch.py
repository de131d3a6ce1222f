"""The optimizers against torch's of the same names, within float32 rounding."""

import numpy as np
import pytest

from monolith.tables import Table, optimizers

torch = pytest.importorskip("torch")

PAIRS = {
    "sgd": (optimizers.SGD(lr=0.1, weight_decay=0.01), lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=0.01)),
    "adagrad": (
        optimizers.Adagrad(lr=0.05, initial_accumulator=0.1, weight_decay=0.01),
        lambda p: torch.optim.Adagrad(p, lr=0.05, initial_accumulator_value=0.1, weight_decay=0.01),
    ),
    "momentum": (
        optimizers.Momentum(lr=0.1, momentum=0.8, weight_decay=0.01),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.8, weight_decay=0.01),
    ),
    "nesterov": (
        optimizers.Momentum(lr=0.1, nesterov=True),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    ),
    "adagrad_of_all_defaults": (optimizers.Adagrad(lr=0.01), torch.optim.Adagrad),
    "rmsprop": (
        optimizers.RMSProp(lr=0.01, alpha=0.9, weight_decay=0.01),
        lambda p: torch.optim.RMSprop(p, lr=0.01, alpha=0.9, weight_decay=0.01),
    ),
    "amsgrad": (
        optimizers.Adam(lr=0.01, beta2=0.9, amsgrad=True),
        lambda p: torch.optim.Adam(p, lr=0.01, betas=(0.9, 0.9), amsgrad=True),
    ),
    "adamw": (
        optimizers.AdamW(lr=0.01, weight_decay=0.1),
        lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
    ),
    "adamw_amsgrad": (
        optimizers.AdamW(lr=0.01, beta2=0.9, amsgrad=True),
        lambda p: torch.optim.AdamW(p, lr=0.01, betas=(0.9, 0.9), amsgrad=True),
    ),
    "adam": (
        optimizers.Adam(lr=0.01, weight_decay=0.01),
        lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.01),
    ),
}


@pytest.mark.parametrize(("ours", "theirs"), PAIRS.values(), ids=PAIRS.keys())
def test_hundred_steps_agree_with_torch(config, ours, theirs):
    check_against_torch(Table(config(dim=16, optimizer=ours)), theirs)


def check_against_torch(table, theirs):
    ids = np.arange(20)
    table.observe(ids)
    weights = torch.nn.Parameter(torch.from_numpy(table.lookup(ids)))
    optimizer = theirs([weights])
    rng = np.random.default_rng(1)
    for _ in range(100):
        grads = rng.standard_normal((20, table.dim)).astype(np.float32)
        weights.grad = torch.from_numpy(grads)
        optimizer.step()
        table.apply_gradients(ids, grads)
    np.testing.assert_allclose(table.lookup(ids), weights.detach().numpy(), rtol=1e-4, atol=1e-5)


def test_rowwise_adam_of_one_column_agrees_with_torchs_adam(config):
    """torch has no row-wise Adam, and FBGEMM's is for GPUs only; of one column it is Adam."""
    table = Table(config(dim=1, optimizer=optimizers.RowWiseAdam(lr=0.01, weight_decay=0.01)))
    check_against_torch(table, lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.01))


def test_rowwise_adagrad_agrees_with_fbgemm(config):
    fbgemm = pytest.importorskip("fbgemm_gpu.split_table_batched_embeddings_ops_training")
    common = pytest.importorskip("fbgemm_gpu.split_table_batched_embeddings_ops_common")
    table = Table(config(dim=16, optimizer=optimizers.RowWiseAdagrad(lr=0.05, eps=1e-8)))
    ids = np.arange(20)
    table.observe(ids)
    tbe = fbgemm.SplitTableBatchedEmbeddingBagsCodegen(
        [(20, 16, common.EmbeddingLocation.HOST, fbgemm.ComputeDevice.CPU)],
        optimizer=fbgemm.OptimType.EXACT_ROWWISE_ADAGRAD,
        learning_rate=0.05,
        eps=1e-8,
    )
    tbe.split_embedding_weights()[0].copy_(torch.from_numpy(table.lookup(ids)))
    rng = np.random.default_rng(1)
    for _ in range(50):
        batch = rng.integers(0, 20, 64)
        grads = rng.standard_normal((64, 16)).astype(np.float32)
        out = tbe(torch.from_numpy(batch), torch.arange(65))
        out.backward(torch.from_numpy(grads))
        table.apply_gradients(batch, grads)
    ours, theirs = table.lookup(ids), tbe.split_embedding_weights()[0].numpy()
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
