"""The samples of a prepared set as `monolith fit` makes them of its Parquet, read once and kept beside it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec
import xxhash

from monolith.config import JobConfig
from monolith.datasets.sets.description import PARTS
from monolith.datasets.sets.job_text import samples_url
from monolith.disk import scratch_beside
from monolith.errors import CorruptError
from monolith.offline.cells import Prepared
from monolith.streaming.between import Between
from monolith.training.fit_input import read_samples
from monolith.training.sample_file import SampleFile

_MADE = 2  # how samples are made of rows; 2: those without a value of the group are in none
Tell = Callable[[str, int, int], None]


class Parts(NamedTuple):
    """Files of the three parts, to `SampleFile.reopen`."""

    train: Path
    valid: Path
    test: Path


def samples_of(prepared: Prepared, job: JobConfig, tell: Tell) -> Parts:
    """The samples as ``job`` reads them. Raises CorruptError where samples of the set cannot be used."""
    read = [_MADE, prepared.about, job.features, sorted(set(job.feature_names())), job.train.group_by]
    key = f"{xxhash.xxh3_64_intdigest(msgspec.json.encode(read)):016x}"
    folder = prepared.folder / "samples" / key
    if not folder.exists():
        scratch = scratch_beside(folder)
        try:
            scratch.mkdir(parents=True)
            for part in PARTS:
                _read(prepared, job, part, scratch / part, tell)
            if not folder.exists():  # another process may have been faster
                scratch.rename(folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return Parts(*(folder / part for part in PARTS))


def _read(prepared: Prepared, job: JobConfig, part: str, path: Path, tell: Tell) -> None:
    url = samples_url(prepared.about, prepared.folder.absolute() / f"{part}.parquet")
    fit = msgspec.structs.replace(job.fit, samples=url)
    with SampleFile(path, keep=True) as samples:
        read = read_samples(msgspec.structs.replace(job, fit=fit), Between(), samples, tell)
        wanted = prepared.about.parts[part].samples
        if len(samples) != wanted:
            raise CorruptError(
                f"{prepared.folder}/{part}.parquet gives {len(samples):,} samples, {wanted:,} were written "
                f"({read.dropped}): prepare the set again"
            )
