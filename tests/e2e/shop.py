"""A shop's click log as Parquet, in which users and items are liked more or less, and a job file beside it."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

START_MS = 1_700_000_000_000  # 2023-11-14T22:13:20, of the first row; one a second follows
ITEMS = 40


def open_shop(kit, job: str, *, rows: int, users: int):
    """Write ``shop.parquet`` and ``shop.yaml`` into the folder of ``kit``, and return it."""
    rng = np.random.default_rng(2)
    user, item = rng.integers(0, users, rows), rng.integers(0, ITEMS, rows)
    taste = rng.normal(0, 1.5, users)[user] + rng.normal(0, 1, ITEMS)[item]
    clicked = rng.random(rows) < 1 / (1 + np.exp(-taste))
    columns = {"user": user, "item": item, "city": [f"c{u % 3}" for u in user], "clicked": clicked}
    pq.write_table(pa.table({**columns, "t": START_MS + np.arange(rows) * 1000}), kit.folder / "shop.parquet")
    kit.folder.joinpath("shop.yaml").write_text(job)
    return kit
