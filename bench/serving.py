"""What a look-up and a prediction take over HTTP, beside redis-py's HMGET of the same rows and Feast's online read.

    python bench/serving.py [--rows N] [--rounds N] [--requests N] [--clients N] [--flat N] [--full] [--feast PYTHON]

A server in a process of its own serves the model of `serving_model` (seven tables of N rows, dim 16) from an LMDB
folder. In every round each contender asks in turn, so that all see the same machine: 200 ids by our client, the same
over a bare connection, two names at once, HMGET of the same 200 stored rows from a redis-server that this program
starts (where one is installed) and their decoding, Feast's `get_online_features` of 200 rows from the same Redis server
(where PYTHON has feast); a prediction for 200 candidates of one user, and the same as 200 samples. Printed are p50 and
p99 of all rounds' requests together, and the ratios of each round's p50 and p99 to the first contender's: median, and
lowest to highest. Then CLIENTS processes ask for 200 ids at once, and at last one asks FLAT times, of which the first
and the last tenth are compared (--full: a million times).
"""

from __future__ import annotations

import argparse
import http.client
import json
import multiprocessing
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt
from machine import machine
from serving_model import DIM, MODEL, OWN, candidates, publish, served

IDS, CANDIDATES, FEAST_ROWS, WARM_UP = 200, 200, 20_000, 50
FULL = 1_000_000

Seconds = npt.NDArray[np.float64]
Ask = Callable[[int], Seconds]  # asks so many times


def main() -> None:
    """All parts, one after the other."""
    options = parse()
    about = machine()
    print(f"{about['processor']}, {about['cores']} cores, Python {about['python']}, load {about['load_1min']}")
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        url = f"lmdb://{folder}/store"
        publish(url, options.rows)
        port = stack.enter_context(redis_server(folder))
        if port is not None:
            publish(f"redis://127.0.0.1:{port}/0", options.rows)
        address = stack.enter_context(served(url))
        feast = stack.enter_context(feast_reads(options.feast, folder, port))
        look_ups = our_look_ups(stack, address, options.rows)
        if port is not None:
            look_ups["redis-py HMGET, decoded"] = hmget(port, options.rows)
        if feast is not None:
            look_ups["Feast get_online_features"] = feast
        compare(f"look-up of {IDS} rows", look_ups, options)
        compare(f"prediction for {CANDIDATES}", predictions(stack, address, options.rows), options)
        at_once(address, options)
        flat(address, options)


def parse() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=300, help="of a contender in a round")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--flat", type=int, default=20_000, help="requests one after the other")
    parser.add_argument("--full", action="store_const", dest="flat", const=FULL, help="a million of them")
    parser.add_argument("--feast", default=sys.executable, metavar="PYTHON", help="an interpreter that has feast")
    return parser.parse_args()


# --- contenders ---


def timed(ask_once: Callable[[], object]) -> Ask:
    """Asks by a function, once more before the first time that counts: a connection may have been idle for too long."""

    def ask(times: int) -> Seconds:
        seconds = []
        with suppress(OSError, http.client.HTTPException):
            ask_once()
        for _ in range(times):
            started = time.perf_counter()
            ask_once()
            seconds.append(time.perf_counter() - started)
        return np.array(seconds)

    return ask


def our_look_ups(stack: ExitStack, address: str, rows: int) -> dict[str, Ask]:
    """Ours; the first is the one that others are compared with."""
    from monolith.serving import Client
    from monolith.serving.body import encode_request

    client, rng = stack.enter_context(Client(address)), np.random.default_rng(1)
    half = IDS // 2
    bare = http.client.HTTPConnection(urlsplit(address).netloc)

    def ask_bare() -> None:
        kind = {"Content-Type": "application/x-monolith"}
        try:
            bare.request("POST", "/lookup", encode_request("item", rng.integers(0, rows, IDS)), kind)
            response = bare.getresponse()
        except (OSError, http.client.HTTPException):
            bare.close()  # the next request connects again
            raise
        if response.status != 200 or not response.read():
            raise SystemExit(f"the server answered {response.status}")

    return {
        "monolith Client": timed(lambda: client.lookup("item", rng.integers(0, rows, IDS))),
        "monolith, a bare connection": timed(ask_bare),
        "monolith Client, two names": timed(
            lambda: client.lookup_together({name: rng.integers(0, rows, half) for name in OWN[:2]})
        ),
    }


def predictions(stack: ExitStack, address: str, rows: int) -> dict[str, Ask]:
    """For candidates of one user, in columns and repeated."""
    from monolith.serving import Client

    client, rng = stack.enter_context(Client(address)), np.random.default_rng(2)
    shared, columns = candidates(rng, rows, CANDIDATES)
    samples = [{**shared, **{name: int(ids[k]) for name, ids in columns.items()}} for k in range(CANDIDATES)]
    return {
        "candidates": timed(lambda: client.predict_candidates(shared, columns)),
        "the same as samples": timed(lambda: client.predict(samples)),
    }


def hmget(port: int, rows: int) -> Ask:
    """What a program without us would do with the rows in Redis."""
    import redis

    from monolith.serving.redis_link import Keys
    from monolith.serving.rows import pack_keys

    client, rng, key = redis.Redis(port=port), np.random.default_rng(1), Keys(MODEL).rows("item")

    def ask_once() -> None:
        found = client.hmget(key, pack_keys(rng.integers(0, rows, IDS)))
        np.frombuffer(b"".join(found), np.uint8).reshape(IDS, -1)[:, : 4 * DIM].copy().view("<f4")

    return timed(ask_once)


@contextmanager
def redis_server(folder: str) -> Iterator[int | None]:
    """The port of a server of our own; None where none is installed."""
    binary = shutil.which("redis-server")
    if binary is None:
        print("skipped: HMGET, as no redis-server is on the path")
        yield None
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [binary, "--port", str(port), "--bind", "127.0.0.1", "--dir", folder, "--save", ""]
    server = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    try:
        wait_for(port)
        yield port
    finally:
        server.kill()
        server.wait()


def wait_for(port: int) -> None:
    """Until a server answers there, or fail after 20 s."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise SystemExit("redis-server did not answer within 20 s")


@contextmanager
def feast_reads(python: str, folder: str, port: int | None) -> Iterator[Ask | None]:
    """Feast in a process of its own; None, with the reason printed, where it cannot be had."""
    place = Path(folder) / "feast"
    place.mkdir()
    words = [python, str(Path(__file__).with_name("feast_reads.py")), str(place), str(FEAST_ROWS), str(DIM), str(IDS)]
    words += [] if port is None else [str(port)]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    pipe, answers = process.stdin, process.stdout

    def ask(times: int) -> Seconds:
        print(times, file=pipe, flush=True)
        return np.array(json.loads(answers.readline()))

    try:
        said = answers.readline().strip()
        if said.startswith("ready"):
            print(f"{said.removeprefix('ready ')}, online store in {'SQLite' if port is None else 'Redis'}")
            yield ask
        else:
            print(f"skipped: Feast, {said.removeprefix('skip ') or 'which could not be filled'}")
            yield None
    finally:
        process.kill()
        process.wait()


# --- what is printed ---


def compare(title: str, contenders: dict[str, Ask], options: argparse.Namespace) -> None:
    """All contenders in turn, round by round."""
    rounds: dict[str, list[Seconds]] = {name: [] for name in contenders}
    for ask in contenders.values():
        ask(WARM_UP)
    for _ in range(options.rounds):
        for name, ask in contenders.items():
            rounds[name].append(ask(options.requests))
    print(f"\n{title:32} {'p50 ms':>8} {'p99 ms':>8}   to the first's, by round: p50, p99")
    base = next(iter(rounds.values()))
    for name, each in rounds.items():
        middle, tail = 1e3 * np.percentile(np.concatenate(each), [50, 99])
        print(f"  {name:30} {middle:8.3f} {tail:8.3f}   {ratio(each, base, 50)}   {ratio(each, base, 99)}")


def ratio(each: list[Seconds], base: list[Seconds], share: int) -> str:
    """Median, and lowest to highest."""
    by_round = [np.percentile(one, share) / np.percentile(first, share) for one, first in zip(each, base, strict=True)]
    return f"{np.median(by_round):6.2f} ({min(by_round):.2f} to {max(by_round):.2f})"


def at_once(address: str, options: argparse.Namespace) -> None:
    """Several processes, each with a client."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(options.clients) as pool:
        asked = [(address, options.rows, seed, options.requests * 2) for seed in range(options.clients)]
        each = pool.starmap(ask_alone, asked, chunksize=1)
    middle, tail = 1e3 * np.percentile(np.concatenate(each), [50, 99])
    rate = sum(len(seconds) / seconds.sum() for seconds in each)
    print(f"\n{options.clients} clients at once: p50 {middle:.3f} ms, p99 {tail:.3f} ms, {rate:,.0f} look-ups/s")


def ask_alone(address: str, rows: int, seed: int, requests: int) -> Seconds:
    """One of them."""
    from monolith.serving import Client

    rng = np.random.default_rng(seed)
    with Client(address, timeout_s=30) as client:
        ask = timed(lambda: client.lookup("item", rng.integers(0, rows, IDS)))
        ask(WARM_UP)
        return ask(requests)


def flat(address: str, options: argparse.Namespace) -> None:
    """Many requests, one after the other."""
    tenth = max(options.flat // 10, 1)
    with ExitStack() as stack:
        ask = our_look_ups(stack, address, options.rows)["monolith, a bare connection"]
        ask(WARM_UP)
        tenths = [1e3 * np.percentile(ask(tenth), [50, 99]) for _ in range(10)]
    print(f"\n{10 * tenth:,} look-ups one after the other, by tenth")
    for number, what in enumerate(("p50", "p99")):
        row = [one[number] for one in tenths]
        print(f"  {what} ms {' '.join(f'{one:.3f}' for one in row)}   last to first {row[-1] / row[0]:.2f}")


if __name__ == "__main__":
    main()
