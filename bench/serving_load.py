"""What large predictions cost everybody else who asks the same server.

    python bench/serving_load.py [--rows N] [--senders N] [--seconds S] [--rounds N]

A server in a process of its own serves a model of two tables of N rows (dim 16, one of them read by a bag) from an LMDB
folder. `/health` and a look-up of 200 ids are asked over one connection each, every 5 ms, while the server is idle
and, in turn, while `senders` connections of another process ask for a prediction of 10,000 samples again and again.
Printed are the quantiles of both, and their ratio by round: median, and lowest to highest. Before that, the time and
the outcome of single large requests, asked with nothing beside.
"""

from __future__ import annotations

import argparse
import http.client
import json
import subprocess
import sys
import tempfile
import threading
import time
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt

DIM, SAMPLES, LONG_BAG, EXCESSIVE_BAG, IDS = 16, 10_000, 10_000, 2_500_000, 200
PAUSE_S = 0.005

Times = npt.NDArray[np.float64]

SERVE = """
import sys
from monolith.serving import serve
serve(sys.argv[1], "load", port=0, on_listening=lambda address: print(address, flush=True))
"""


def main() -> None:
    """Publish a model, serve it, ask."""
    options = parse()
    if options.send:
        send_for_ever(options.send, options.senders)
    with tempfile.TemporaryDirectory() as folder:
        url = f"lmdb://{folder}/store"
        publish(url, options.rows)
        server = subprocess.Popen([sys.executable, "-P", "-c", SERVE, url], stdout=subprocess.PIPE, text=True)
        try:
            assert server.stdout is not None
            address = server.stdout.readline().strip()
            wait_until_ready(address)
            single_requests(address)
            beside_senders(address, options)
        finally:
            server.terminate()
            server.wait()


def parse() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--senders", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=5.0, help="of a phase")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--send", help=argparse.SUPPRESS)  # this program as the process that sends
    return parser.parse_args()


def publish(url: str, rows: int) -> None:
    """A model of two features, one of them a bag, whose logit is a weighted sum of all values."""
    from monolith.card import CardFeature, ModelCard, Read
    from monolith.config import FeatureConfig
    from monolith.serving.publisher import Publisher
    from monolith.serving.store import open_store
    from monolith.tables import Table, TableConfig, optimizers
    from monolith.tables.delta import ModelDelta
    from monolith.tables.vectors import published_dims

    configs = [TableConfig(name=name, dim=DIM, optimizer=optimizers.SGD(lr=0.1)) for name in ("user", "movies")]
    tables = {config.name: Table(config) for config in configs}
    for table in tables.values():
        table.observe(np.arange(rows), event_time_ms=1)
        sequence = table.cut()
    features = [
        CardFeature(
            config=FeatureConfig(name=name, bag=name == "movies"),
            seed=name,
            reads=[Read(table=name, output=name, pooling="sum", salted=False)],
        )
        for name in tables
    ]
    card = ModelCard(model="load", lineage="bench", tables=published_dims(configs), tails={}, features=features)
    publisher = Publisher(open_store(url, "load"))
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

    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", DIM]) for name in ("user", "movies")]
    inputs += [helper.make_tensor_value_info("w:first", TensorProto.FLOAT, [2 * DIM, 256])]
    inputs += [helper.make_tensor_value_info("w:second", TensorProto.FLOAT, [256])]
    nodes = [
        helper.make_node("Concat", ["user", "movies"], ["all"], axis=1),
        helper.make_node("MatMul", ["all", "w:first"], ["hidden"]),
        helper.make_node("Relu", ["hidden"], ["positive"]),
        helper.make_node("MatMul", ["positive", "w:second"], ["logit"]),
    ]
    output = helper.make_tensor_value_info("logit", TensorProto.FLOAT, ["batch"])
    model = helper.make_model(
        helper.make_graph(nodes, "load", inputs, [output]), opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    data: bytes = model.SerializeToString()
    return data


def weights() -> bytes:
    """The graph's, small enough that every sum is a number."""
    from safetensors.numpy import save

    rng = np.random.default_rng(0)
    first = rng.normal(size=(2 * DIM, 256)).astype(np.float32)
    return save({"first": first / 100, "second": rng.normal(size=256).astype(np.float32)})


# --- questions ---


class Asker:
    """One connection that is kept open."""

    def __init__(self, address: str) -> None:
        self._address = urlsplit(address).netloc
        self._connection = http.client.HTTPConnection(self._address, timeout=120)

    def ask(self, path: str, body: bytes | None = None) -> tuple[int, float]:
        """Status and seconds."""
        kind = "application/x-monolith" if path == "/lookup" else "application/json"
        started = time.perf_counter()
        self._connection.request("GET" if body is None else "POST", path, body, {"Content-Type": kind})
        response = self._connection.getresponse()
        response.read()
        return response.status, time.perf_counter() - started


def many_samples() -> bytes:
    """10,000 samples of a user and five movies."""
    rng = np.random.default_rng(1)
    movies = rng.integers(0, 200_000, (SAMPLES, 5)).tolist()
    return json.dumps({"samples": [{"user": n, "movies": bag} for n, bag in enumerate(movies)]}).encode()


def one_bag(length: int) -> bytes:
    """One sample with that many movies."""
    movies = b",".join(b"%d" % (n % 10) for n in range(length))
    return b'{"samples":[{"user":1,"movies":[' + movies + b"]}]}"


def few_ids() -> bytes:
    """A look-up in binary."""
    from monolith.serving.body import encode_request

    return encode_request("user", np.arange(IDS, dtype=np.int64) * 7)


def wait_until_ready(address: str) -> None:
    """Or fail after a minute."""
    deadline = time.monotonic() + 60
    while Asker(address).ask("/ready")[0] != 200:
        if time.monotonic() > deadline:
            raise SystemExit("the server did not become ready in a minute")
        time.sleep(0.05)


def single_requests(address: str) -> None:
    """The time of each, best of three where it is short."""
    questions = {
        f"{SAMPLES:,} samples": many_samples(),
        f"one sample, a bag of {LONG_BAG:,}": one_bag(LONG_BAG),
        f"one sample, a bag of {EXCESSIVE_BAG:,}": one_bag(EXCESSIVE_BAG),
    }
    for name, body in questions.items():
        answers = [Asker(address).ask("/predict", body)]
        while answers[-1][1] < 1 and len(answers) < 3:
            answers.append(Asker(address).ask("/predict", body))
        print(f"{name:36} status {answers[-1][0]}  {1e3 * min(seconds for _, seconds in answers):10.1f} ms")


def beside_senders(address: str, options: argparse.Namespace) -> None:
    """Both phases in turn, and what they say."""
    phases: dict[bool, list[dict[str, Times]]] = {False: [], True: []}
    for _ in range(options.rounds):
        phases[False].append(probe(address, options.seconds))
        command = [sys.executable, "-P", __file__, "--send", address, "--senders", str(options.senders)]
        sender = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            assert sender.stdout is not None
            sender.stdout.readline()
            phases[True].append(probe(address, options.seconds))
        finally:
            sender.kill()
            sender.wait()
    for name in ("/health", "/lookup"):
        for share in (50, 99):
            report(name, share, *[[float(np.percentile(p[name], share)) for p in phases[x]] for x in (False, True)])


def probe(address: str, seconds: float) -> dict[str, Times]:
    """Seconds of every question, by path."""
    askers, body = {name: Asker(address) for name in ("/health", "/lookup")}, few_ids()
    times: dict[str, list[float]] = {name: [] for name in askers}
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for name, asker in askers.items():
            status, took = asker.ask(name, body if name == "/lookup" else None)
            assert status == 200, (name, status)
            times[name].append(took)
        time.sleep(PAUSE_S)
    return {name: np.array(each) for name, each in times.items()}


def report(name: str, share: int, idle: list[float], loaded: list[float]) -> None:
    """One line."""
    ratios = [with_load / without for with_load, without in zip(loaded, idle, strict=True)]
    print(
        f"{name:8} p{share}  idle {1e3 * np.median(idle):8.2f} ms  loaded {1e3 * np.median(loaded):8.2f} ms  "
        f"ratio {np.median(ratios):7.1f}  ({min(ratios):.1f} to {max(ratios):.1f})"
    )


def send_for_ever(address: str, senders: int) -> None:
    """Ask on so many connections until killed; a line when all have begun."""
    body = many_samples()

    def send() -> None:
        asker = Asker(address)
        while True:
            if asker.ask("/predict", body)[0] == 503:
                time.sleep(0.1)

    for _ in range(senders):
        threading.Thread(target=send, daemon=True).start()
    print("sending", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
