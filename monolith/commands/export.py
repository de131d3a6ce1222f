"""``monolith export FROM --table T --out FILE``: a table's rows in a file, for people who want to leave or look."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from monolith.commands.table_files import SUFFIXES, Ids, Values, check_suffix, table_file
from monolith.errors import ConfigError
from monolith.secrets import scheme

Chunk = tuple[Ids, Values]

PIECE_ROWS = 250_000  # a row group of a Parquet file


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "export", help="write a table's rows to a file: Parquet, CSV, JSON, NumPy, safetensors"
    )
    parser.add_argument("source", help="a snapshot folder, a job's state folder (its newest), or a store URL")
    parser.add_argument("--table", required=True)
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help=f"the suffix says the kind: {', '.join(SUFFIXES)}"
    )
    parser.add_argument("--model", help="the model's name in the store; not needed where there is one")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the file and say how many rows it has."""
    check_suffix(args.out)
    if scheme(args.source) in ("lmdb", "redis", "rediss"):
        count = _write_served(args.source, args.model, args.table, args.out)
    elif "://" in args.source:
        raise ConfigError(
            f"{args.source} is no store: export reads lmdb://, redis://, rediss://, a snapshot or a state folder"
        )
    else:
        rows, names = _snapshot_rows(Path(args.source), args.table)
        count = _write([rows], rows[1].shape[1], args.out, names)
    print(f"{count:,} rows of table {args.table} in {args.out}")
    return 0


def _write_served(url: str, model: str | None, table: str, out: Path) -> int:
    from monolith.serving.listing import only_model
    from monolith.serving.store import open_store

    store = open_store(url, model or only_model(url), create=False)
    try:
        tables = store.card().tables
        if table not in tables:
            raise ConfigError(f"no table {table!r} in {store.url}; there are {', '.join(sorted(tables))}")
        rows = store.rows(table)
        return _write(_once(rows) if scheme(url) in ("redis", "rediss") else rows, tables[table], out)
    finally:
        store.close()


def _once(chunks: Iterable[Chunk]) -> Iterator[Chunk]:
    """Each id's first row: a scan of Redis may give a row twice while its hash grows."""
    seen: set[int] = set()
    for ids, values in chunks:
        new = np.fromiter((id_ not in seen for id_ in ids.tolist()), np.bool_, len(ids))
        seen.update(ids.tolist())
        yield ids[new], values[new]


def _snapshot_rows(folder: Path, name: str) -> tuple[Chunk, Mapping[int, str] | None]:
    """The rows, and what their ids are called where the job keeps strings."""
    from monolith.tables.kept_strings import KeptStrings
    from monolith.tables.kinds import open_to_read
    from monolith.tables.published import owner_of
    from monolith.training.snapshot import STRINGS, find_snapshot

    snapshot = find_snapshot(folder)
    tables = snapshot.tables()
    if owner_of(name) not in tables:
        raise ConfigError(f"no table {name!r} in {snapshot.path}; there are {', '.join(sorted(tables))}")
    found = open_to_read(tables[owner_of(name)]).published()
    if name not in found:
        raise ConfigError(f"no table {name!r} in {snapshot.path}, but {', '.join(sorted(found))}")
    names = None
    if STRINGS in snapshot.manifest.files:
        names = KeptStrings.from_state(snapshot.read(STRINGS)).by_key(name) or None
    return found[name].rows(), names


def _pieces(chunks: Iterable[Chunk]) -> Iterator[Chunk]:
    """No more than `PIECE_ROWS` at a time: a list's offsets have 31 bits, and a row group is in memory when written."""
    for ids, values in chunks:
        for start in range(0, len(ids), PIECE_ROWS):
            yield ids[start : start + PIECE_ROWS], values[start : start + PIECE_ROWS]


def _write(chunks: Iterable[Chunk], dim: int, path: Path, names: Mapping[int, str] | None = None) -> int:
    count = 0
    with table_file(path, dim, texts=names is not None) as file:
        for ids, values in _pieces(chunks):
            file.write(ids, values, None if names is None else [names.get(id_) for id_ in ids.tolist()])
            count += len(ids)
    return count
