"""Journals and entries of which tests know every byte."""

from __future__ import annotations

from monolith.streaming.journal import Journal, StepEntry


def entry(step: int, **more) -> StepEntry:
    return StepEntry(step=step, ends={"features": {0: 10 * step, 1: 7}}, watermark_ms=100 * step, **more)


def written(folder, steps: int, **options) -> Journal:
    journal = Journal(folder, **options)
    for step in range(1, steps + 1):
        journal.append(entry(step))
    return journal


def only_file(folder):
    (path,) = folder.glob("*.journal")
    return path
