"""A table as it was saved, in one file or in several that divide its buckets, and how it comes back.

What is in a bucket comes from the file that has the bucket. Of the state that is the table's as a whole:

* ``sequence`` and ``steps`` are the same in all files that are read, or they were not saved together;
* the clock is the latest of theirs, and deltas start from the latest of their floors;
* the places at which the next sweep and the next sample of eviction start are those of the file that has the first
  bucket that is read;
* statistics are in the file that has the first of the table's buckets, and others say zero: so they add up, whoever
  reads the files. Who reads the first bucket of a file takes over its statistics.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from monolith.config.optimizers import StepCount
from monolith.config.table import TableConfig
from monolith.errors import ConfigError, CorruptError, InputError, VersionError
from monolith.tables import _core, snapshot
from monolith.tables.buckets import ALL_BUCKETS, Buckets, union
from monolith.tables.header import UPPERS_A_BUCKET, Header, arrays_of, groups_of, row_kind, sometimes
from monolith.tables.options import check_same_rows
from monolith.tables.policy_options import policy_names, renumbered
from monolith.tables.settings import saved_steps, settings_of
from monolith.tables.snapshot import TableFile
from monolith.tables.stats import HAPPENED

if TYPE_CHECKING:
    from monolith.tables.table import Table

Folder = str | os.PathLike[str]
Folders = Folder | Sequence[Folder]  # of one table's file, or of its files

Adapted = Callable[[TableFile], Iterable[tuple[int, snapshot.Bucket]]]

_FORMER_STATISTICS = ("expired", "counter_halvings")  # of versions 1 and 2
_SAME = ("name", "dim", "seed", "shared_ids", "layout", "state_floats", "tail_rows")  # of rows, in files of one table


class SavedTable:
    """The files of one table. Raises ConfigError, naming them, for files that overlap or are not of one table."""

    def __init__(self, files: Sequence[TableFile], wanted: Buckets) -> None:
        self.files = files
        self.wanted = wanted
        for one, other in combinations(files, 2):
            if both := (one.held & other.held).ranges:
                raise ConfigError(f"{one.path} and {other.path} both have {Buckets(both)}: give each bucket once")
        if missing := (wanted - union(file.held for file in files)).ranges:
            has = "; ".join(f"{file.path} has {file.held}" for file in files)
            raise ConfigError(
                f"no file has {Buckets(missing)} of the table ({has}): give the files of the other parts as well, or "
                f"ask for the buckets that are there"
            )
        self.read = [file for file in files if (file.held & wanted).ranges]
        for other in self.read[1:]:
            _check_of_one_table(self.read[0], other)

    @property
    def header(self) -> Header:
        """That of the file with the first bucket that is read."""
        return min(self.read, key=lambda file: next(iter(file.held & self.wanted))).header

    @property
    def where(self) -> str:
        """The files, for errors."""
        return ", ".join(str(file.path) for file in self.read)

    def config(self) -> TableConfig:
        """The config of all files. Raises ConfigError where they were saved by several, and what a file's raises."""
        first, *others = self.read
        for other in others:
            own, also = first.header.settings, other.header.settings
            if keys := sorted(key for key in {*own, *also} if own.get(key) != also.get(key)):
                raise ConfigError(
                    f"{first.path} and {other.path} were saved with other settings ({', '.join(keys)}): say by which "
                    f"config the table is to be opened"
                )
        config = first.config
        check_same_rows(self.header.rows, config, self.where)
        return config

    def check(self, config: TableConfig) -> list[StepCount]:
        """By which counts Adam was corrected. Raises ConfigError unless the rows mean the same under ``config``."""
        check_same_rows(self.header.rows, config, self.where)
        return saved_steps(self.header.settings)

    def restore(self, table: Table, adapted: Adapted | None = None) -> None:
        """Put everything that was saved of the table's buckets into it; it is empty.

        ``adapted`` gives a file's buckets in the form of a table of other rows than the saved ones.
        """
        header, native = self.header, table.native
        if adapted is None and header.rows.state_floats != native.state_floats:
            raise CorruptError(
                f"{self.where}: {header.rows.state_floats} words of optimizer state a row, the optimizer has "
                f"{native.state_floats}"
            )
        happened = self._statistics()
        native.reserve(sum(file.directory[n].rows for file in self.read for n in file.held & self.wanted))
        for file in self.read:
            self._restore_buckets(table, file, (adapted or self._filled)(file))
        floor = max(file.header.effective_floor for file in self.read)
        if table.config.storage not in (header.rows.storage, "float32"):  # every row was rounded, and is in no delta
            floor = header.sequence
        clock_ms = max(file.header.clock_ms for file in self.read)
        place = header.sweep_cursor * UPPERS_A_BUCKET + header.sweep_offset
        native.set_clockwork(
            _core.Clockwork(header.sequence, floor, clock_ms, place, header.steps, header.eviction_cursor)
        )
        if table.config.tail_rows not in (0, header.rows.tail_rows):  # fresh rows, which no replica has
            native.write_tail(header.sequence, np.arange(table.config.tail_rows), table.tail())
        native.set_statistics(happened)

    def _filled(self, file: TableFile) -> Iterator[tuple[int, snapshot.Bucket]]:
        """Those of the file's buckets that are wanted and have something in them."""
        return file.buckets([n for n in file.held & self.wanted if any(file.directory[n].counts.values())])

    def _restore_buckets(self, table: Table, file: TableFile, buckets: Iterable[tuple[int, snapshot.Bucket]]) -> None:
        policy_of = renumbered(file.header.rows.policies, policy_names(table.config))
        for number, bucket in buckets:
            if table.config.tail_rows != file.header.rows.tail_rows:
                bucket |= snapshot.no_tail()
            bucket |= {name: policy_of[bucket[name]] for name in ("policies", "counter_policies")}
            table.native.import_bucket(number, bucket)

    def _statistics(self) -> _core.Statistics:
        happened = _core.Statistics()
        for file in self.read:
            counts = file.header.statistics
            if unknown := sorted(set(counts) - {*HAPPENED, *_FORMER_STATISTICS}):
                names = ", ".join(unknown)
                raise VersionError(f"{file.path}: the header counts what this build does not know: {names}")
            if next(iter(file.held)) not in self.wanted:
                continue
            for name in HAPPENED:  # 0: a count that came later
                setattr(happened, name, getattr(happened, name) + counts.get(name, 0))
            happened.expired_idle += counts.get("expired", 0)  # versions 1 and 2 knew no other reason
        return happened


def folders_of(folder: Folder) -> list[Path]:
    """The folders of a table's files: ``folder`` itself, or those of its parts, which are below it by number."""
    path = Path(folder)
    if (path / snapshot.FILE_NAME).exists():
        return [path]
    return sorted(found.parent for found in path.glob(f"[0-9][0-9][0-9][0-9]/{snapshot.FILE_NAME}")) or [path]


@contextmanager
def opened(folders: Folders, wanted: Buckets = ALL_BUCKETS) -> Iterator[SavedTable]:
    """The table saved in ``folders``. Raises what TableFile and SavedTable do, and InputError for no folder."""
    several = folders_of(folders) if isinstance(folders, str | os.PathLike) else list(folders)
    if not several or not wanted.ranges:
        raise InputError(f"{len(several)} folders, {wanted}: give at least one folder, and a bucket to read")
    with ExitStack() as stack:
        yield SavedTable([stack.enter_context(TableFile(folder)) for folder in several], wanted)


def header_of(table: Table, buckets: Buckets) -> Header:
    """The header of a file with ``buckets`` of the table, which no other thread changes meanwhile."""
    now, happened = table.native.clockwork(), table.native.statistics()
    first = next(iter(table.buckets)) in buckets
    settings, defaulted = settings_of(table.config)
    rows = row_kind(table.config, table.native.state_floats)
    return Header(
        rows=rows,
        buckets=[*buckets.ranges],
        sequence=now.sequence,
        floor=min(now.floor, now.sequence - 1),
        open_forgotten=now.floor == now.sequence,
        clock_ms=now.clock_ms,
        steps=now.steps,
        sweep_cursor=now.sweep_cursor // UPPERS_A_BUCKET,
        sweep_offset=now.sweep_cursor % UPPERS_A_BUCKET,
        eviction_cursor=now.eviction_cursor,
        statistics={n: getattr(happened, n) if first else 0 for n in HAPPENED if n != "pruned" or happened.pruned},
        groups=groups_of(rows.tail_rows),
        arrays=arrays_of(rows, sometimes(table.config)),
        settings=settings,
        defaulted=defaulted,
    )


def exported(table: Table, buckets: Buckets) -> Iterator[snapshot.Bucket]:
    """Those buckets of the table. Raises InputError at the end if a part of a table has rows of other buckets."""
    rows = 0
    for number in buckets:
        bucket = table.native.export_bucket(number)
        rows += len(bucket["ids"])
        yield bucket
    if buckets == table.buckets and rows != len(table):
        raise InputError(
            f"table {table.config.name!r} has {table.buckets} and {len(table) - rows} rows of others, which would be "
            f"lost: give it ids of its own buckets only (monolith.tables.split)"
        )


def _check_of_one_table(one: TableFile, other: TableFile) -> None:
    for field in _SAME:
        own, also = getattr(one.header.rows, field), getattr(other.header.rows, field)
        if own != also:
            raise ConfigError(f"{one.path} has {field} = {own!r}, {other.path} {also!r}: parts are of one table")
    for field in ("sequence", "steps"):
        own, also = getattr(one.header, field), getattr(other.header, field)
        if own != also:
            raise ConfigError(
                f"{one.path} was saved at {field} {own}, {other.path} at {also}: parts are saved at one moment"
            )
