"""Feast's online read, asked by `bench/serving.py` through a pipe; in an interpreter of its own, which has feast.

    python bench/feast_reads.py FOLDER ROWS DIM COUNT [REDIS_PORT]

Fills an online store (a Redis server, or else SQLite) with ROWS rows of DIM float32 values, says "ready VERSION", and
then answers each line N on its input with the seconds of N reads of COUNT random rows, as a JSON list. Where feast
cannot be imported, it says "skip" and why.
"""

from __future__ import annotations

import json
import random
import sys
import time
from datetime import UTC, datetime, timedelta
from typing import Any

WRITTEN_AT_ONCE = 5_000


def main() -> None:
    """Fill, then answer."""
    try:
        import feast
    except Exception as error:  # of whatever it imports
        print(f"skip {type(error).__name__}: {error}", flush=True)
        return
    folder, rows, dim, count = sys.argv[1], *map(int, sys.argv[2:5])
    store = filled(folder, rows, dim, sys.argv[5] if len(sys.argv) > 5 else None)
    print(f"ready feast {feast.__version__}", flush=True)
    rng = random.Random(0)
    for line in sys.stdin:
        print(json.dumps([one_read(store, rng, rows, count) for _ in range(int(line))]), flush=True)


def filled(folder: str, rows: int, dim: int, redis_port: str | None) -> Any:
    """A feature store with one view of one feature, the row."""
    import numpy as np
    import pandas as pd
    from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
    from feast.types import Array, Float32, Int64

    online = {"type": "sqlite", "path": f"{folder}/online.db"}
    if redis_port is not None:
        online = {"type": "redis", "connection_string": f"127.0.0.1:{redis_port},db=1"}
    settings = {"registry": f"{folder}/registry.db", "online_store": online, "entity_key_serialization_version": 3}
    store = FeatureStore(config=RepoConfig(project="bench", provider="local", **settings))
    values = np.random.default_rng(0).normal(size=(rows, dim)).astype(np.float32)
    now = datetime.now(UTC)
    frame = pd.DataFrame({"item": np.arange(rows), "vector": values.tolist(), "event_timestamp": now})
    frame.head(1).to_parquet(f"{folder}/source.parquet")
    item = Entity(name="item", join_keys=["item"], value_type=ValueType.INT64)
    view = FeatureView(
        name="rows",
        entities=[item],
        ttl=timedelta(0),
        schema=[Field(name="item", dtype=Int64), Field(name="vector", dtype=Array(Float32))],
        source=FileSource(path=f"{folder}/source.parquet", timestamp_field="event_timestamp"),
    )
    store.apply([item, view])
    for start in range(0, rows, WRITTEN_AT_ONCE):
        store.write_to_online_store("rows", frame.iloc[start : start + WRITTEN_AT_ONCE])
    return store


def one_read(store: Any, rng: random.Random, rows: int, count: int) -> float:
    """Seconds."""
    asked = [{"item": rng.randrange(rows)} for _ in range(count)]
    started = time.perf_counter()
    answer = store.get_online_features(features=["rows:vector"], entity_rows=asked).to_dict()
    seconds = time.perf_counter() - started
    if any(vector is None for vector in answer["vector"]):
        raise SystemExit("feast did not find a row that was written")
    return seconds


if __name__ == "__main__":
    main()
