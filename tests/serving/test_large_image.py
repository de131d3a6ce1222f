"""An image of many rows goes into a store in pieces: what that takes beside the image is the same for any number."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from monolith.card import ModelCard
from monolith.serving.store import open_store
from monolith.tables.delta import Delta, ModelDelta

ROWS, DIM = 400_000, 16
IMAGE_BYTES = ROWS * (8 + 4 * DIM)


@pytest.fixture
def image():
    ids = np.arange(-ROWS // 2, ROWS - ROWS // 2)  # keys of ids below zero sort last
    values = np.random.default_rng(1).random((ROWS, DIM), dtype=np.float32)
    table = Delta(0, 1, ids, values, np.zeros(0, np.int64))
    return ModelDelta(
        base_sequence=0, sequence=1, step=1, watermark_ms=0, tables={"user": table}, dense=b"", ingested_ms=ids[:0]
    )


def test_writing_an_image_takes_less_memory_than_the_image(tmp_path, image):
    store = open_store(f"lmdb://{tmp_path / 'store'}", "demo")
    generation = store.take_over(ModelCard(model="demo", lineage="run", tables={"user": DIM}, features=[])).generation
    tracemalloc.start()
    try:
        store.apply(image, generation, "run")
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    stored = store.image().delta.tables["user"]
    store.close()
    assert np.array_equal(stored.ids, image.tables["user"].ids)
    assert np.array_equal(stored.values, image.tables["user"].values)
    assert most < IMAGE_BYTES
