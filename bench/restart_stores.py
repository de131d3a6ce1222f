"""The passes of `bench/restart.py` over files and stores: snapshot, inspect, export, images into stores and back.

Redis is a server of its own, which keeps nothing on disk; where the program is not there, its passes are left out.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, redirect_stdout
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import redis
from safetensors.numpy import save

from monolith.card import ModelCard
from monolith.cli import parser
from monolith.commands.demo_processes import free_port
from monolith.serving.memory import ModelMemory
from monolith.serving.parity import compare
from monolith.serving.store import open_store
from monolith.tables import Table
from monolith.tables.delta import ModelDelta
from monolith.training.snapshot import SNAPSHOT_VERSION, Manifest, Snapshots, open_snapshot

Timed = Callable[[str, Callable[[], Any]], Any]
START_S = 10.0  # for a Redis server


def snapshot_passes(timed: Timed, folder: Path, table: Table) -> None:
    """A snapshot that holds the table, and what commands do with one."""
    name = table.config.name

    def fill(tables: Path) -> None:
        (tables / name).mkdir()
        table.save(tables / name)

    manifest = Manifest(version=SNAPSHOT_VERSION, model="bench", lineage="run", step=1, sequence=1, job={})
    snapshots = Snapshots(folder / "snapshots")
    path = timed("snapshot", lambda: snapshots.write(manifest, {"tables": fill}))
    timed("check", lambda: open_snapshot(path))
    timed("inspect", lambda: _run("inspect", str(path)))
    parquet = folder / "rows.parquet"
    timed("export", lambda: _run("export", str(path), "--table", name, "--out", str(parquet)))
    shutil.rmtree(snapshots.directory)
    parquet.unlink()


def _run(*arguments: str) -> None:
    """A command in this process, which need not import everything again."""
    options = parser().parse_args(arguments)
    with redirect_stdout(StringIO()):
        if code := options.run(options):
            raise RuntimeError(f"monolith {' '.join(arguments)} ended with {code}")


def store_passes(timed: Timed, folder: Path, table: Table) -> None:
    """The table's image through each store into a replica's memory, and parity of the store with the table."""
    with closing(open_store(f"lmdb://{folder / 'store'}", "bench")) as lmdb:
        image = _through(timed, "LMDB", lmdb, table)
        timed("replica", partial(ModelMemory, image, lmdb.url))
        del image
        timed("parity", lambda: compare(lmdb, {table.config.name: table}))
    shutil.rmtree(folder / "store")
    if shutil.which("redis-server"):
        with redis_server() as url, closing(open_store(url, "bench")) as store:
            _through(timed, "Redis", store, table)


def _through(timed: Timed, name: str, store: Any, table: Table) -> Any:
    """Into the store and back."""
    card = ModelCard(model="bench", lineage="run", tables={table.config.name: table.dim}, features=[])
    generation = store.take_over(card).generation
    delta = table.delta(0)
    image = ModelDelta(
        base_sequence=0,
        sequence=delta.sequence,
        step=1,
        watermark_ms=0,
        tables={table.config.name: delta},
        dense=save({}),
        ingested_ms=np.zeros(0, np.int64),
    )
    timed(f"to {name}", partial(store.apply, image, generation, "run"))
    del image, delta
    return timed(f"from {name}", store.image)


@contextmanager
def redis_server() -> Iterator[str]:
    """A server that ends with the block; yields its URL."""
    port = free_port()
    settings = ("--port", str(port), "--save", "", "--appendonly", "no")
    server = subprocess.Popen(["redis-server", *settings], stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + START_S
        with redis.Redis(port=port) as client:
            while not _answers(client):
                if time.monotonic() > deadline:
                    raise TimeoutError(f"redis-server did not answer on port {port} in {START_S:.0f} s")
                time.sleep(0.05)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        server.terminate()
        server.wait()


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.exceptions.ConnectionError:
        return False
