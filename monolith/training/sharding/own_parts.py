"""What a rank says of its own parts: statistics, files that it wrote, and which snapshot it sees."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import xxhash

from monolith.errors import ConfigError, CorruptError
from monolith.tables.arguments import Ids
from monolith.tables.fixed import SUMMED
from monolith.tables.stats import TableStats
from monolith.training.sharding.learner import DividedLearner
from monolith.training.snapshot import MANIFEST

_FIELDS = tuple(TableStats.__dataclass_fields__)


def own_stats(learner: DividedLearner) -> dict[str, list[int]]:
    """The statistics of a rank's parts, in the order of `TableStats`, summed by table of the job.

    Of a table that is several native ones, rows and bytes are of all, and what has happened to ids is of the first.
    """
    found = {table.name: np.zeros(len(_FIELDS), np.int64) for table in learner.job.tables}
    firsts: dict[str, int] = {}
    for part in learner.parts.parts:
        name, stats = part.division.native.table.name, part.table.stats()
        is_first = firsts.setdefault(name, part.number) == part.number
        own = [getattr(stats, field) if is_first or field in SUMMED else 0 for field in _FIELDS]
        found[name] += np.array(own, np.int64)
    return {name: each.tolist() for name, each in found.items()}


def contained(learner: DividedLearner, table: str, keys: Ids) -> bytes:
    """Whether each of ``keys`` (n,) has a row in a rank's parts, as bools."""
    found = np.zeros(len(keys), np.bool_)
    for part in learner.parts.tables[table]:
        found |= part.contains(keys)
    return found.tobytes()


def saved_bytes(learner: DividedLearner, folder: Path) -> bytes:
    """Write a rank's parts; a checksum of its dense part, and the entries of the files. Raises OSError."""
    files = learner.save_own(folder)
    return msgspec.msgpack.encode((xxhash.xxh3_64_intdigest(learner.dense_state()), files))


def manifest_checksum(tables: Path) -> int:
    """Of the manifest of the snapshot that ``tables`` lies in. Raises CorruptError where there is none."""
    try:
        return xxhash.xxh3_64_intdigest((tables.parent / MANIFEST).read_bytes())
    except OSError as error:
        raise CorruptError(f"{tables.parent} is no snapshot that this process can read: {error}") from error


def check_same_snapshot(tables: Path, manifest: int, rank: int) -> None:
    """Raise ConfigError unless ``tables`` lies in the snapshot whose manifest has the checksum ``manifest``."""
    try:
        own = manifest_checksum(tables)
    except CorruptError as error:
        raise ConfigError(
            f"rank {rank} does not see the snapshot that rank 0 goes on from: {error}; have the state folder on a file "
            f"system that all ranks share"
        ) from None
    if own != manifest:
        raise ConfigError(
            f"rank {rank} has another snapshot at {tables.parent} than rank 0 (manifest {own:016x}, not "
            f"{manifest:016x}): have the state folder on a file system that all ranks share"
        )
