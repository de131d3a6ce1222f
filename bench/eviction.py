"""How near eviction by samples comes to the exact policy: hit rates of the two on the same stream.

    python bench/eviction.py [--folder PATH] [--seeds N] [--json PATH]

A table with a limit of rows observes a stream of ids in batches; a hit is an occurrence whose id has a row. The rival
sorts *all* rows by the same rule after each batch and drops the lowest: LRU by when the id was seen last, LFU by how
often, halved by a half-life. Streams: ids drawn by Zipf's law (exponent 1.1, a million ids), the same with a tenth of
the ids' ranks drawn anew every 20 batches, and the users and movies of MovieLens 100k in order of time and of
MovieLens 1M in the file's order. For each the ratio of the table's hit rate to the exact policy's: mean and range over
seeds, which draw the stream anew or, for MovieLens, give its ids other hashes. Then the time of a training step's
forward on a table at its limit, over that of an unlimited one, the two in turn: median and quartiles. MovieLens is read
from ../shared/data or --folder, which is not part of the project; without it those streams are skipped, and it says so.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from monolith.tables import Table, TableConfig, eviction, optimizers
from monolith.tables.hashing import salted

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
ZIPF_IDS, ZIPF_BATCHES, ZIPF_BATCH, REPLAY_BATCH = 1_000_000, 400, 4096, 256
STEP_MS, HALF_LIFE_S = 1000, 50.0  # event time of a batch; a use count halves in 50 batches without the id

Ids = npt.NDArray[np.int64]
Stream = Callable[[int], Iterator[Ids]]  # seed -> batches


def main() -> None:
    """Replay every stream under every policy and limit, and print the ratios."""
    options = parse()
    results = []
    print(
        f"{'stream':<14} {'policy':<6} {'rows':>7} {'exact':>7} {'ours':>7} {'ratio':>8}   over {options.seeds} seeds"
    )
    for name, stream, limits in streams(Path(options.folder)):
        for rows, policy in product(limits, ("lru", "lfu")):
            results.append(result(name, stream, rows, policy, options.seeds))
            print(
                "{stream:<14} {policy:<6} {rows:>7,} {exact:>7.4f} {ours:>7.4f} {ratio:>8.5f}   "
                "{lowest:.5f} to {highest:.5f}".format(**results[-1])
            )
    for policy in ("lru", "lfu"):
        results.append(cost(policy))
        print(
            "{policy}: forward takes {ratio:.2f} times as long ({lowest:.2f} to {highest:.2f}), "
            "{evicted:,.0f} rows evicted of {ids:,} ids a step, {rows:,} rows".format(**results[-1])
        )
    if options.json:
        Path(options.json).write_text(json.dumps(results, indent=1) + "\n")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", default=str(DATA), help="where <data>/ratings.parquet is")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", help="write the figures to this file as well")
    options = parser.parse_args()
    if options.seeds < 2:
        parser.error("--seeds must be at least 2: one seed has no spread")
    return options


def streams(folder: Path) -> Iterator[tuple[str, Stream, list[int]]]:
    """Each stream with its name and the limits that it is run under."""
    yield "zipf", lambda seed: zipf(seed, drift=0.0), [5_000, 50_000]
    yield "zipf, drifting", lambda seed: zipf(seed, drift=0.1), [5_000, 50_000]
    for name in ("ml100k", "ml1m"):
        path = folder / name / "ratings.parquet"
        if path.exists():
            yield name, replay(path), [500, 1500]
        else:
            print(f"{name}: skipped, it needs {path}, which cannot be redistributed")


def zipf(seed: int, drift: float) -> Iterator[Ids]:
    """Batches of ids by Zipf's law; every 20 batches a share of the ranks goes to other ids."""
    rng = np.random.default_rng(seed)
    weights = 1 / np.arange(1, ZIPF_IDS + 1) ** 1.1
    upto = np.cumsum(weights / weights.sum())
    id_of_rank = rng.permutation(ZIPF_IDS)
    for number in range(ZIPF_BATCHES):
        if drift and number % 20 == 19:
            moved = rng.choice(ZIPF_IDS, int(drift * ZIPF_IDS), replace=False)
            id_of_rank[moved] = id_of_rank[rng.permutation(moved)]
        yield id_of_rank[np.searchsorted(upto, rng.random(ZIPF_BATCH)).clip(max=ZIPF_IDS - 1)]


def replay(path: Path) -> Stream:
    """Users and movies of the ratings, by time where there is one; the seed is the ids' salt."""
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    columns = {name: table.column(name).to_numpy() for name in ("user_id", "movie_id")}
    order = np.arange(table.num_rows)
    if "timestamp" in table.column_names:
        order = np.argsort(table.column("timestamp").to_numpy(), kind="stable")
    pairs = np.stack([columns["user_id"].astype(np.int64), -1 - columns["movie_id"].astype(np.int64)], axis=1)[order]

    def batches(seed: int) -> Iterator[Ids]:
        ids = salted(f"seed {seed}", pairs.ravel())
        yield from np.split(ids, range(2 * REPLAY_BATCH, len(ids), 2 * REPLAY_BATCH))

    return batches


def result(name: str, stream: Stream, rows: int, policy: str, seeds: int) -> dict[str, Any]:
    """The two hit rates, and their ratio over the seeds."""
    pairs = np.array([(exact(stream(s), rows, policy), ours(stream(s), rows, policy)) for s in range(seeds)])
    ratios = pairs[:, 1] / pairs[:, 0]
    means = dict(zip(("exact", "ours"), pairs.mean(axis=0), strict=True))
    spread = {"ratio": ratios.mean(), "lowest": ratios.min(), "highest": ratios.max()}
    return {"stream": name, "policy": policy, "rows": rows, **{k: float(v) for k, v in (means | spread).items()}}


def cost(policy: str, rows: int = 1_000_000, ids: int = 160_000, steps: int = 40) -> dict[str, Any]:
    """How long forwards take at the limit, where four in ten ids are new, over those of a table without one."""
    rng = np.random.default_rng(0)
    tables = [
        Table(TableConfig(name="ids", dim=16, optimizer=optimizers.RowWiseAdagrad(), eviction=limit))
        for limit in (rule_of(policy, rows), eviction.Unlimited())
    ]
    for table, part in product(tables, np.split(rng.permutation(rows), 20)):
        table.observe(part, event_time_ms=0)
    ratios, before = [], tables[0].stats().evicted
    for number in range(1, steps + 1):
        batch = rng.zipf(1.05, ids) % (10 * rows)
        spent = []
        for table in tables:
            start = time.perf_counter()
            table.step(batch, event_time_ms=number * STEP_MS)
            spent.append(time.perf_counter() - start)
            table.cut()
        ratios.append(spent[0] / spent[1])
    lowest, ratio, highest = np.quantile(ratios, [0.25, 0.5, 0.75]).tolist()
    evicted = (tables[0].stats().evicted - before) / steps
    spread = {"ratio": ratio, "lowest": lowest, "highest": highest}
    return {"stream": "cost", "policy": policy, "rows": rows, "ids": ids, "evicted": evicted, **spread}


def rule_of(policy: str, rows: int) -> eviction.Eviction:
    """The policy with that limit."""
    if policy == "lru":
        return eviction.LRU(max_rows=rows)
    return eviction.LFU(max_rows=rows, half_life_s=HALF_LIFE_S)


def ours(batches: Iterator[Ids], rows: int, policy: str) -> float:
    """Hit rate of a table with that limit."""
    table = Table(TableConfig(name="ids", dim=1, eviction=rule_of(policy, rows)))
    for number, batch in enumerate(batches):
        table.observe(batch, event_time_ms=number * STEP_MS)
        if len(table) > max(rows, len(np.unique(batch))):
            raise AssertionError(f"{len(table)} rows, the limit is {rows}")
    stats = table.stats()
    return 1 - stats.admitted / stats.observed


def exact(batches: Iterator[Ids], rows: int, policy: str) -> float:
    """Hit rate where after each batch the lowest of all rows go, but none of the batch."""
    places: dict[int, int] = {}
    last, uses, held = np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, bool)
    seen = made = 0
    for number, batch in enumerate(batches):
        unique, counts = np.unique(batch, return_counts=True)
        at = np.array([places.setdefault(i, len(places)) for i in unique.tolist()])
        more = len(places) - len(last)
        last, uses, held = (np.concatenate([a, np.zeros(more, a.dtype)]) for a in (last, uses, held))
        uses[at] = np.where(held[at], halved(uses[at], last[at], number), 0) + counts
        made, seen = made + np.count_nonzero(~held[at]), seen + len(batch)
        last[at], held[at] = number, True
        resident = np.flatnonzero(held)
        old = resident[last[resident] != number]
        score = last[old] if policy == "lru" else halved(uses[old], last[old], number) * ZIPF_BATCHES**2 + last[old]
        held[old[np.argsort(score)[: max(0, len(resident) - rows)]]] = False
    return 1 - made / seen


def halved(uses: Ids, last: Ids, now: int) -> Ids:
    """Use counts as they are at batch ``now``."""
    return uses >> np.minimum((now - last) * STEP_MS // round(HALF_LIFE_S * 1000), 62)


if __name__ == "__main__":
    main()
