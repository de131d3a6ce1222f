"""A snapshot of a few bytes."""

from __future__ import annotations

from pathlib import Path

from monolith.training.snapshot import (
    SNAPSHOT_VERSION,
    Manifest,
)


def manifest(step: int) -> Manifest:
    return Manifest(version=SNAPSHOT_VERSION, model="m", lineage="l", step=step, sequence=step * 2, job={"name": "m"})


def fill(folder: Path) -> None:
    (folder / "user").mkdir()
    (folder / "user" / "table.bin").write_bytes(b"rows" * 100)


PARTS = {"tables": fill, "dense.safetensors": b"weights" * 50}
