"""A small recommender with real tables and a real ONNX graph, published to an LMDB store step by step."""

from __future__ import annotations

import threading
import time

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from safetensors.numpy import save

from monolith.card import CardFeature, ModelCard, Read
from monolith.config import FeatureConfig
from monolith.serving import follower
from monolith.serving.publisher import Publisher
from monolith.serving.store import open_store
from monolith.tables import Table, TableConfig, optimizers
from monolith.tables.delta import ModelDelta
from monolith.tables.hashing import salted
from monolith.tables.pooling import pool
from monolith.tables.schema import FeatureSchema
from monolith.tables.tail import tail_sizes
from monolith.tables.vectors import published_dims

DIM = 4


def _feature(name, table, type="int", *, bag=False, pooling="sum", salted=False):
    config = FeatureConfig(name=name, type=type, bag=bag)
    return CardFeature(config=config, seed=name, reads=[Read(table=table, output=name, pooling=pooling, salted=salted)])


FEATURES = [
    _feature("user", "user"),
    _feature("movie", "movie", salted=True),
    _feature("last_movie", "movie", salted=True),
    _feature("tags", "tags", "string", bag=True, pooling="mean"),
]
INPUTS = [feature.name for feature in FEATURES]


def graph() -> bytes:
    """``logit = sum of all vectors' values * scale + bias``."""
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", DIM]) for name in INPUTS]
    inputs += [helper.make_tensor_value_info(f"w:{name}", TensorProto.FLOAT, [1]) for name in ("scale", "bias")]
    nodes = [
        helper.make_node("Sum", INPUTS, ["vector"]),
        helper.make_node("ReduceSum", ["vector", "axis"], ["total"], keepdims=0),
        helper.make_node("Mul", ["total", "w:scale"], ["scaled"]),
        helper.make_node("Add", ["scaled", "w:bias"], ["logit"]),
    ]
    axis = helper.make_tensor("axis", TensorProto.INT64, [1], [1])
    output = helper.make_tensor_value_info("logit", TensorProto.FLOAT, ["batch"])
    model = helper.make_graph(nodes, "sum", inputs, [output], [axis])
    return onnx.helper.make_model(model, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


class Recommender:
    """The trainer's end: tables that learn something at every step, and a publisher."""

    def __init__(self, url: str, lineage: str = "run-1", payload: str = "float32", **settings: object) -> None:
        """``settings`` are those of all tables."""
        configs = [
            TableConfig(name=name, dim=DIM, optimizer=optimizers.SGD(lr=1.0), **settings)
            for name in ("user", "movie", "tags")
        ]
        self.tables = {config.name: Table(config) for config in configs}
        self.card = ModelCard(
            model="demo",
            lineage=lineage,
            tables=published_dims(configs),
            tails=tail_sizes(configs),
            features=FEATURES,
            payload=payload,
        )
        self.schema = FeatureSchema(FEATURES)
        self.sequence = 0
        self.store = open_store(url, "demo")
        self.publisher = Publisher(self.store)
        self.publisher.start(self.card, graph())

    def learn(self, samples) -> None:
        """Make rows for everything in ``samples`` and move them by one."""
        for read, ids, _ in self._ids(samples):
            table = self.tables[read.table]
            table.observe(ids, event_time_ms=1000 * (self.sequence + 1))
            table.apply_gradients(ids, -np.ones((len(ids), DIM), np.float32))

    def publish(self):
        """The next sequence, whose dense bias is its number."""
        (self.sequence,) = {table.cut() for table in self.tables.values()}
        return self.publisher.publish(self.sequence, self.delta)

    def delta(self, since: int) -> ModelDelta:
        tables = {name: table.delta(since) for name, table in self.tables.items()}
        ingested_ms = np.array([time.time_ns() // 1_000_000 - 5], np.int64)
        return ModelDelta(since, self.sequence, self.sequence, 1000, tables, self.dense(), ingested_ms)

    def dense(self) -> bytes:
        return save({"scale": np.array([0.125], np.float32), "bias": np.array([self.sequence], np.float32)})

    def probabilities(self, samples):
        """What the model says, by NumPy alone."""
        total = np.zeros((len(samples), DIM), np.float32)
        for read, ids, bag in self._ids(samples):
            total += pool(self.tables[read.table].lookup(ids), bag, read.pooling)
        return 1 / (1 + np.exp(-(total.sum(axis=1, dtype=np.float64) * 0.125 + self.sequence)))

    def close(self) -> None:
        self.publisher.close()

    def _ids(self, samples):
        bags = self.schema.columns_of(samples, np.zeros(len(samples), np.int64)).bags
        for feature in FEATURES:
            bag, (read,) = bags[feature.name], feature.reads
            yield read, salted(feature.name, bag.ids) if read.salted else bag.ids, bag


SAMPLES = [
    {"user": 1, "movie": 10, "last_movie": 11, "tags": ["new", "funny"]},
    {"user": 2, "movie": 11, "last_movie": 10, "tags": []},
    {"user": 2, "movie": 10},
]


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    """A follower hears `stop` after one wait for deltas; short ones make short tests."""
    monkeypatch.setattr(follower, "WAIT_S", 0.02)


@pytest.fixture
def samples():
    return SAMPLES


@pytest.fixture
def url(tmp_path):
    return f"lmdb://{tmp_path}/store"


@pytest.fixture
def recommender(url):
    """With one published sequence that knows the samples."""
    recommender = Recommender(url)
    recommender.learn(SAMPLES)
    recommender.publish()
    yield recommender
    recommender.close()


@pytest.fixture
def start_recommender(url):
    """Another trainer of the same store, from its first step."""
    started = []

    def start(lineage: str, payload: str = "float32", **settings: object) -> Recommender:
        started.append(Recommender(url, lineage, payload, **settings))
        return started[-1]

    yield start
    for recommender in started:
        recommender.close()


@pytest.fixture
def wait_until():
    def wait(condition, what: str, timeout_s: float = 20.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, f"{what} did not happen within {timeout_s} s"
            time.sleep(0.005)

    return wait


@pytest.fixture
def start_server():
    """Serves a replica on a free port; the address."""
    from monolith.serving.server import bind, make_server

    running = []

    def start(replica, **options) -> str:
        listener = bind("127.0.0.1", 0)
        listener.listen()
        server = make_server(replica, **options)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        running.append((server, thread, replica))
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    yield start
    for server, thread, replica in running:
        server.should_exit = True
        thread.join(20)
        replica.close()


@pytest.fixture
def in_thread():
    """Runs functions in threads; the test fails if one of them did."""
    threads, failures = [], []

    def run(function) -> threading.Thread:
        def guarded() -> None:
            try:
                function()
            except BaseException as error:
                failures.append(error)

        threads.append(threading.Thread(target=guarded, daemon=True))
        threads[-1].start()
        return threads[-1]

    yield run
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive(), "a thread of the test did not end"
    assert failures == []
