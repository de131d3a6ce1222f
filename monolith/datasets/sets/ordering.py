"""Puts samples into the order of their split and cuts them into parts, with a bounded number of them in memory.

Samples are written to a file as they come, and their keys counted. Where keys never fall, that file is in order.
Otherwise its rows are dealt out to files by ranges of keys, each of which is then sorted by itself. Equal keys stay in
the order of the source.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from monolith.datasets.sets.cuts import Ints, KeyHistogram
from monolith.datasets.sets.description import KEY, LIST, PART, PARTS, TIME, Split
from monolith.datasets.sets.planted import mixed

ROW_GROUP = 65_536
SORTED_AT_ONCE = 1 << 20  # rows that are sorted in memory

Tell = Callable[[str, int, int], None]


class Ordering:
    """Takes tables of samples, and gives them back by part, in order."""

    def __init__(self, split: Split, scratch: Path, tell: Tell) -> None:
        """``scratch``: a folder for files that are in the way later."""
        self._split, self._scratch, self._tell = split, scratch, tell
        self._histogram = KeyHistogram()
        self._writer: Any = None
        self._rows, self._last, self._in_order = 0, -(2**63), True
        self._last_list: int | None = None

    def take(self, table: pa.Table) -> None:
        """The next samples of the source."""
        if not len(table):
            return
        keys = self._keys(table)
        self._histogram.add(keys, self._weights(table))
        self._in_order &= bool(keys[0] >= self._last and (np.diff(keys) >= 0).all())
        self._last = int(keys[-1])
        self._rows += len(table)
        table = table.append_column(KEY, pa.array(keys))
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._scratch / "all.parquet", table.schema, compression="zstd")
        self._writer.write_table(table, row_group_size=ROW_GROUP)
        self._tell("reading", self._rows, self._rows)

    def parts(self) -> Iterator[tuple[str, pa.Table]]:
        """Tables of samples in order, each with the part that it belongs to."""
        if self._writer is None:
            return
        self._writer.close()
        cuts, done = self._cuts(), 0
        for table in self._tables():
            keys = table[KEY].to_numpy()
            edges = [0, *np.searchsorted(keys, cuts).tolist(), len(table)]
            for part, start, stop in zip(PARTS, edges[:-1], edges[1:], strict=True):
                if stop > start:
                    yield part, table.slice(start, stop - start).drop_columns([KEY])
            done += len(table)
            self._tell("writing", done, self._rows)

    def _keys(self, table: pa.Table) -> Ints:
        if self._split.kind == "given":
            return np.asarray(table[PART].to_numpy(), np.int64)
        if self._split.kind == "random":
            numbers = np.arange(self._rows, self._rows + len(table), dtype=np.uint64)
            salt = np.uint64(self._split.seed) << np.uint64(40)
            return (mixed(numbers ^ salt) >> np.uint64(1)).astype(np.int64)
        return np.asarray(table[TIME].to_numpy(), np.int64)

    def _weights(self, table: pa.Table) -> npt.NDArray[np.float64]:
        """1 a sample; of whole lists, 1 the first sample of each."""
        if self._split.kind != "lists":
            return np.ones(len(table))
        lists = table[LIST].to_numpy()
        first = np.diff(lists, prepend=lists[0] - 1) != 0
        first[0] = lists[0] != self._last_list
        self._last_list = int(lists[-1])
        return np.asarray(first, np.float64)

    def _cuts(self) -> list[int]:
        """The first keys of the validation and of the test part."""
        if self._split.kind == "given":
            return [1, 2]
        train, valid, _ = self._split.shares
        return self._histogram.quantiles([train, train + valid])

    def _tables(self) -> Iterator[pa.Table]:
        whole = pq.ParquetFile(self._scratch / "all.parquet")
        if self._in_order:
            for batch in whole.iter_batches(ROW_GROUP):
                yield pa.Table.from_batches([batch])
            return
        for path in self._dealt_out(whole):
            table = pq.read_table(path)
            path.unlink()
            yield table.take(pa.array(np.argsort(table[KEY].to_numpy(), kind="stable")))

    def _dealt_out(self, whole: pq.ParquetFile) -> list[Path]:
        """Files of rows by ascending ranges of keys, equal keys in one."""
        ranges = -(-self._rows // SORTED_AT_ONCE)
        edges = self._histogram_of_rows(whole).quantiles([number / ranges for number in range(1, ranges)])
        with ExitStack() as files:
            writers: dict[int, Any] = {}
            for batch in whole.iter_batches(ROW_GROUP):
                table = pa.Table.from_batches([batch])
                places = np.searchsorted(edges, table[KEY].to_numpy(), side="right")
                for place in np.unique(places).tolist():
                    if place not in writers:
                        path = self._scratch / f"{place}.parquet"
                        writers[place] = files.enter_context(pq.ParquetWriter(path, table.schema, compression="zstd"))
                    writers[place].write_table(table.filter(pa.array(places == place)))
        (self._scratch / "all.parquet").unlink()
        return [self._scratch / f"{place}.parquet" for place in sorted(writers)]

    def _histogram_of_rows(self, whole: pq.ParquetFile) -> KeyHistogram:
        """That of the cuts may count lists."""
        if self._split.kind != "lists":
            return self._histogram
        histogram = KeyHistogram()
        for batch in whole.iter_batches(columns=[KEY]):
            histogram.add(batch.column(0).to_numpy(), np.ones(batch.num_rows))
        return histogram
