"""``monolith export FROM --table T --out FILE``: a table's rows as Parquet, for people who want to leave or look."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from monolith.errors import ConfigError, UnavailableError
from monolith.secrets import scheme

Chunk = tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]  # ids (n,), values (n, dim)

PIECE_ROWS = 250_000  # a row group of the file


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser("export", help="write a table's rows to Parquet")
    parser.add_argument("source", help="a snapshot folder, a job's state folder (its newest), or a store URL")
    parser.add_argument("--table", required=True)
    parser.add_argument(
        "--out", type=Path, required=True, help="a .parquet file: columns id (int64), values (list<float>)"
    )
    parser.add_argument("--model", help="the model's name in the store (redis)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the file and say how many rows it has."""
    if scheme(args.source) in ("lmdb", "redis"):
        from monolith.serving.store import open_store

        store = open_store(args.source, args.model, create=False)
        try:
            count = _write(store.rows(args.table), args.out)
        finally:
            store.close()
    else:
        count = _write([_snapshot_rows(Path(args.source), args.table)], args.out)
    print(f"{count:,} rows of table {args.table} in {args.out}")
    return 0


def _snapshot_rows(folder: Path, name: str) -> Chunk:
    from monolith.tables.kinds import open_to_read
    from monolith.tables.published import owner_of
    from monolith.training.snapshot import find_snapshot

    snapshot = find_snapshot(folder)
    tables = snapshot.tables()
    if owner_of(name) not in tables:
        raise ConfigError(f"no table {name!r} in {snapshot.path}; there are {sorted(tables)}")
    found = open_to_read(tables[owner_of(name)]).published()
    if name not in found:
        raise ConfigError(f"no table {name!r} in {snapshot.path}, but {sorted(found)}")
    return found[name].rows()


def _pieces(chunks: Iterable[Chunk]) -> Iterator[Chunk]:
    """No more than `PIECE_ROWS` at a time: a list's offsets have 31 bits, and a row group is in memory when written."""
    for ids, values in chunks:
        for start in range(0, len(ids), PIECE_ROWS):
            yield ids[start : start + PIECE_ROWS], values[start : start + PIECE_ROWS]


def _write(chunks: Iterable[Chunk], path: Path) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([("id", pa.int64()), ("values", pa.list_(pa.float32()))])
    count = 0
    try:
        with pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=False) as writer:  # no value repeats
            for ids, values in _pieces(chunks):
                offsets = np.arange(len(ids) + 1, dtype=np.int32) * values.shape[1]
                column = pa.ListArray.from_arrays(offsets, values.ravel())
                writer.write_table(pa.table([pa.array(ids), column], schema=schema))
                count += len(ids)
    except OSError as error:
        with suppress(OSError):
            path.unlink()
        raise UnavailableError(f"cannot write {path}: {error}") from error
    return count
