"""By what rows of Parquet are known again: times, items and labels of the first of them.

Files may grow between two starts of a job, by rows behind those that were read; the first ones stay what they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

MOST_ROWS = 64


def mark_of(file: pq.ParquetFile, columns: Sequence[str], rows: int = MOST_ROWS) -> str | None:
    """``COLUMN,COLUMN:ROWS:HASH`` of the file's first rows, ``rows`` at most; None where it has none."""
    names = sorted(set(columns))
    head = next(file.iter_batches(rows, columns=names, use_threads=False), None) if file.metadata.num_rows else None
    if head is None or not head.num_rows:
        return None
    values = [head.column(name).cast(_plain(head.column(name).type)).to_pylist() for name in names]
    digest = xxhash.xxh3_64_hexdigest(msgspec.msgpack.encode(values, enc_hook=str))
    return f"{','.join(names)}:{head.num_rows}:{digest}"


def is_same(mark: str, again: Callable[[int], str | None]) -> bool:
    """Whether rows are those of ``mark``; ``again(n)`` gives the mark of their first n. Other columns tell nothing."""
    columns, rows, _ = mark.rsplit(":", 2)
    found = again(int(rows))
    return found == mark or (found is not None and found.rsplit(":", 2)[0] != columns)


def _plain(kind: pa.DataType) -> pa.DataType:
    """The type whose values are numbers or texts in Python."""
    if pa.types.is_dictionary(kind):
        return _plain(kind.value_type)
    if pa.types.is_temporal(kind):
        return pa.int32() if kind.bit_width == 32 else pa.int64()
    return kind
