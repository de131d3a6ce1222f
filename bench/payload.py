"""What each payload of published rows costs and saves: bytes, publishing, look-ups, error, and AUC, against float32.

    python bench/payload.py [--rows N] [--dim N] [--rounds N] [--data ml1m|ml100k] [--seeds N] [--json PATH]

*Speed*: in each round every payload in turn publishes an image of --rows random rows to a fresh LMDB store (rows/s,
packing and the write to the disk), loads it as a replica does, and looks up --asked ids at a time there, from memory,
and once more straight from the store, each the best of nine tries. A ratio is to float32 of the same round: median,
and in brackets the range over rounds. The bytes are those of the packed row, of the store's file, and of one copy in a
replica's memory, index included. The error is that of standard normal values.

*AUC*: the factorization machine of ``bench/storage.py`` learns MovieLens in float32; the held-out fifth is judged with
rows as each payload serves them. Differences are to float32 of the same seed: mean, standard error, range. Ratings are
read from ../shared/data or --folder, which is not part of the project; without it there is no such part, and it says
so.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # not there under PYTHONSAFEPATH

import numpy as np
import numpy.typing as npt
import storage

from monolith.card import CardFeature, ModelCard, Read
from monolith.config.features import FeatureConfig
from monolith.serving.ledger import LogLimits
from monolith.serving.lmdb_store import LmdbStore
from monolith.serving.memory import PackedRows
from monolith.serving.payload import PAYLOADS, RowFormat
from monolith.tables import Table, TableConfig, optimizers
from monolith.tables.delta import Delta, ModelDelta

Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]
RATES = {"publish": "rows/s published", "memory": "rows/s from memory", "direct": "rows/s from the store"}


def main() -> None:
    """Print both parts."""
    options = parse()
    results = {"speed": speed(options), "auc": None}
    path = Path(options.folder or storage.DATA) / options.data / "ratings.parquet"
    if path.exists():
        results["auc"] = served_auc(path, options)
    else:
        print(f"AUC skipped: it needs the MovieLens ratings in {path}, which cannot be redistributed")
    if options.json:
        Path(options.json).write_text(json.dumps({**vars(options), **results}, indent=1) + "\n")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--dim", type=int, default=16)
    parser.add_argument("--asked", type=int, default=1_000, help="ids a look-up")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--data", choices=["ml1m", "ml100k"], default="ml1m")
    parser.add_argument("--folder", help="where <data>/ratings.parquet is")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--json", help="write the figures to this file as well")
    options = parser.parse_args()
    if options.rounds < 2 or options.seeds < 2:
        parser.error("--rounds and --seeds must be at least 2: one has no spread")
    return options


# --- bytes, rates, errors ---------------------------------------------------------------------------------------------


def speed(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The figures of each payload, printed as well."""
    print(
        f"speed: {options.rows:,} rows of dim {options.dim}, {options.rounds} rounds, {options.asked:,} ids a look-up"
    )
    delta = image(options.rows, options.dim)
    rounds = [
        {payload: one_round(delta, payload, options.asked) for payload in turned(number)}
        for number in range(options.rounds + 1)
    ][1:]  # the first one warms up
    results = [summary(payload, rounds, delta.tables["user"].values) for payload in PAYLOADS]
    for result in results:
        print_speed(result)
    return results


def image(rows: int, dim: int) -> ModelDelta:
    """An image of standard normal rows under scattered ids."""
    rng = np.random.default_rng(0)
    ids = np.unique(rng.integers(-(2**63), 2**63 - 1, rows))
    values = rng.standard_normal((len(ids), dim), np.float32)
    return ModelDelta(0, 1, 1, 1, {"user": Delta(0, 1, ids, values, np.zeros(0, np.int64))}, b"")


def turned(number: int) -> list[str]:
    """The payloads in an order of the round's own, so that none always comes first."""
    at = number % len(PAYLOADS)
    return [*PAYLOADS[at:], *PAYLOADS[:at]]


def one_round(delta: ModelDelta, payload: str, asked: int) -> dict[str, float]:
    """Rates in rows/s, and bytes a row."""
    ids, dim = delta.tables["user"].ids, delta.tables["user"].values.shape[1]
    feature = CardFeature(
        config=FeatureConfig(name="user"),
        seed="user",
        reads=[Read(table="user", output="user", pooling="sum", salted=False)],
    )
    card = ModelCard(model="bench", lineage="run", tables={"user": dim}, features=[feature], payload=payload)
    with tempfile.TemporaryDirectory() as folder:
        store = LmdbStore(Path(folder), url="bench", model="bench", limits=LogLimits(), create=True)
        generation = store.take_over(card).generation
        publish = seconds(lambda: store.apply(delta, generation, "run"))
        rows = PackedRows("user", RowFormat(payload, dim))
        rows.apply(store.image().delta.tables["user"])
        batches = np.random.default_rng(1).choice(ids, (200, asked))
        memory = seconds(lambda: [rows.lookup(batch) for batch in batches], tries=9)
        direct = seconds(lambda: [store.read("user", batch) for batch in batches[:20]], tries=9)
        size = (Path(folder) / "data.mdb").stat().st_size
        store.close()
    return {
        "publish": len(ids) / publish,
        "memory": batches.size / memory,
        "direct": batches[:20].size / direct,
        "file_bytes": size / len(ids),
        "memory_bytes": rows.bytes_held() / len(ids),
    }


def seconds(work: Callable[[], object], tries: int = 1) -> float:
    """How long ``work`` took, the least of some tries: what else runs on the machine only ever adds."""
    times = []
    for _ in range(tries):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


def summary(payload: str, rounds: list[dict[str, dict[str, float]]], values: Floats) -> dict[str, Any]:
    """One payload's figures over the rounds."""
    form = RowFormat(payload, values.shape[1])
    error = np.abs(form.served(values) - values)
    result: dict[str, Any] = {
        "payload": payload,
        "row_bytes": form.width,
        "file_bytes": statistics.median(r[payload]["file_bytes"] for r in rounds),
        "memory_bytes": rounds[0][payload]["memory_bytes"],
        "max_error": float(error.max()),
        "mean_error": float(error.mean()),
    }
    for rate in RATES:
        ratios = [r[payload][rate] / r["float32"][rate] for r in rounds]
        result[rate] = statistics.median(r[payload][rate] for r in rounds)
        result[f"{rate}_ratio"] = [statistics.median(ratios), min(ratios), max(ratios)]
    return result


def print_speed(result: dict[str, Any]) -> None:
    """A few lines of the report."""
    print(
        f"  {result['payload']:12s} {result['row_bytes']} bytes a row, {result['file_bytes']:.0f} in the store, "
        f"{result['memory_bytes']:.0f} in memory; error {result['max_error']:.2e} max, {result['mean_error']:.2e} mean"
    )
    for rate, words in RATES.items():
        median, least, most = result[f"{rate}_ratio"]
        print(f"    {result[rate]:12,.0f} {words:22s} {median:.2f} of float32 ({least:.2f} to {most:.2f})")


# --- AUC --------------------------------------------------------------------------------------------------------------


def served_auc(path: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """AUC on held-out ratings with rows as served, printed as well."""
    ids, labels = storage.ratings(path)
    runs = f"{options.seeds} seeds, {options.epochs} epochs, dim {storage.DIM}"
    print(f"AUC: {options.data}, {len(labels):,} ratings, {runs}")
    aucs = np.array([one_seed(ids, labels, seed, options.epochs) for seed in range(options.seeds)])
    results = [storage.summary(name, column, aucs[:, 0]) for name, column in zip(PAYLOADS, aucs.T, strict=True)]
    for result in results:
        line = f"  {result['storage']:12s} AUC {result['auc']:.6f}"
        spread = f"+- {result['standard_error']:.6f}, {result['least']:+.6f} to {result['most']:+.6f}"
        print(line if result["storage"] == "float32" else f"{line}   to float32 {result['difference']:+.6f} ({spread})")
    return results


def one_seed(ids: Ids, labels: Floats, seed: int, epochs: int) -> list[float]:
    """Train once in float32; the AUC with each payload's rows."""
    rng = np.random.default_rng(seed)
    train, test = np.split(rng.permutation(len(labels)), [len(labels) * 4 // 5])
    table = Table(TableConfig(name="ids", dim=storage.DIM, seed=seed, optimizer=optimizers.Adagrad(lr=storage.LR)))
    for _ in range(epochs):
        for batch in np.split(train, range(storage.BATCH, len(train), storage.BATCH)):
            storage.step(table, ids[batch], labels[batch])
        train = rng.permutation(train)
    rows = table.lookup(ids[test].ravel())
    forms = [RowFormat(payload, storage.DIM) for payload in PAYLOADS]
    return [storage.auc(labels[test], storage.logits(form.served(rows))[0]) for form in forms]


if __name__ == "__main__":
    main()
