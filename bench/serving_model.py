"""A model to serve in benchmarks: a user and an item side, a bag, and two layers over all vectors; with random rows."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

DIM, HIDDEN = 16, 128
SHARED = ("user", "country", "device", "history")
OWN = ("item", "category", "creator")
FEATURES = (*SHARED, *OWN)
MODEL = "bench"

SERVE = """
import sys
from monolith.serving import serve
serve(sys.argv[1], sys.argv[2], port=0, on_listening=lambda address: print(address, flush=True))
"""


def publish(url: str, rows: int) -> None:
    """Fill the store at ``url`` with a model whose tables have ``rows`` rows each, of ids from 0 on."""
    from monolith.card import CardFeature, ModelCard, Read
    from monolith.config import FeatureConfig
    from monolith.serving.publisher import Publisher
    from monolith.serving.store import open_store
    from monolith.tables import Table, TableConfig, optimizers
    from monolith.tables.delta import ModelDelta
    from monolith.tables.vectors import published_dims

    configs = [TableConfig(name=name, dim=DIM, optimizer=optimizers.SGD(lr=0.1)) for name in FEATURES]
    tables = {config.name: Table(config) for config in configs}
    for table in tables.values():
        table.observe(np.arange(rows), event_time_ms=1)
        sequence = table.cut()
    features = [
        CardFeature(
            config=FeatureConfig(name=name, type="int", bag=name == "history"),
            seed=name,
            reads=[Read(table=name, output=name, pooling="sum", salted=False)],
        )
        for name in FEATURES
    ]
    card = ModelCard(model=MODEL, lineage="bench", tables=published_dims(configs), tails={}, features=features)
    publisher = Publisher(open_store(url, MODEL))
    publisher.start(card, graph())
    now = np.array([time.time_ns() // 1_000_000], np.int64)
    publisher.publish(
        sequence,
        lambda since: ModelDelta(
            since, sequence, 1, 1, {name: table.delta(since) for name, table in tables.items()}, weights(), now
        ),
    )
    publisher.close()


def graph() -> bytes:
    """Two layers over the concatenated vectors."""
    from onnx import TensorProto, helper

    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", DIM]) for name in FEATURES]
    inputs += [helper.make_tensor_value_info("w:first", TensorProto.FLOAT, [len(FEATURES) * DIM, HIDDEN])]
    inputs += [helper.make_tensor_value_info("w:second", TensorProto.FLOAT, [HIDDEN])]
    nodes = [
        helper.make_node("Concat", list(FEATURES), ["all"], axis=1),
        helper.make_node("MatMul", ["all", "w:first"], ["hidden"]),
        helper.make_node("Relu", ["hidden"], ["positive"]),
        helper.make_node("MatMul", ["positive", "w:second"], ["logit"]),
    ]
    output = helper.make_tensor_value_info("logit", TensorProto.FLOAT, ["batch"])
    model = helper.make_model(
        helper.make_graph(nodes, "bench", inputs, [output]), opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    data: bytes = model.SerializeToString()
    return data


def weights() -> bytes:
    """The graph's, small enough that every sum is a number."""
    from safetensors.numpy import save

    rng = np.random.default_rng(0)
    first = rng.normal(size=(len(FEATURES) * DIM, HIDDEN)).astype(np.float32)
    return save({"first": first / 100, "second": rng.normal(size=HIDDEN).astype(np.float32)})


def candidates(rng: np.random.Generator, rows: int, count: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """A user with a history of 20 items, and ``count`` candidates as columns."""
    shared: dict[str, Any] = {name: int(rng.integers(rows)) for name in SHARED}
    shared["history"] = rng.integers(0, rows, 20).tolist()
    return shared, {name: rng.integers(0, rows, count) for name in OWN}


@contextmanager
def served(url: str) -> Iterator[str]:
    """A server of the store at ``url`` in a process of its own, ready; its address."""
    server = subprocess.Popen([sys.executable, "-P", "-c", SERVE, url, MODEL], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        address = server.stdout.readline().strip()
        wait_until_ready(address)
        yield address
    finally:
        server.terminate()
        server.wait()


def wait_until_ready(address: str) -> None:
    """Or fail after a minute."""
    from monolith.serving import Client

    deadline = time.monotonic() + 60
    with Client(address) as client:
        while not client.ready():
            if time.monotonic() > deadline:
                raise SystemExit("the server did not become ready in a minute")
            time.sleep(0.05)
