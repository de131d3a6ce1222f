"""``monolith import FILE --job JOB --table T``: rows that another program trained become the start of a job's run."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from monolith.errors import ConfigError, InputError

if TYPE_CHECKING:
    from monolith.commands.matrix_files import Source
    from monolith.config import JobConfig, TableConfig
    from monolith.tables.arguments import Ids, Matrix


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "import",
        help="take a table's rows from a checkpoint of torch, torchrec or NumPy; `train` then begins with them",
        epilog="The way back is `monolith export`. docs/warm_start.md has examples.",
    )
    parser.add_argument(
        "file", type=Path, help="the matrix: .pt, .pth, .safetensors, .npz, .npy, or .parquet as export writes it"
    )
    parser.add_argument("--job", type=Path, required=True, help="the job file (YAML)")
    parser.add_argument("--set", action="append", default=[], metavar="a.b=c", help="override one setting; repeatable")
    parser.add_argument("--table", required=True, help="the job's table that gets the rows")
    parser.add_argument("--key", help="the matrix in FILE, by name; not needed where there is one")
    parser.add_argument(
        "--ids",
        help="the ids: a name in FILE, or a file (.npy, .pt, .txt, .json: a list, or an object value -> row); "
        "default: what stands beside the matrix as weight_id, ids or id, else each row's number",
    )
    parser.add_argument("--rows", help="the row of each id: a name in FILE, or a file; default: in order")
    parser.add_argument("--empty", type=int, metavar="N", help="an id that marks a place without one")
    parser.add_argument("--feature", help="the feature that the ids are of, where several read the table")
    parser.add_argument("--keys", action="store_true", help="the ids are the table's keys, as `export` writes them")
    parser.add_argument(
        "--last-seen", metavar="TIME", help="when the ids were last seen, for a table whose rows expire"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the rows into ``state/start`` and say how many there are."""
    from monolith.commands.matrix_files import Source
    from monolith.commands.moments import moment_ms
    from monolith.config.load import load_job
    from monolith.tables.dense import expires

    job = load_job(args.job, args.set)
    config = next((table for table in job.tables if table.name == args.table), None)
    if config is None:
        raise ConfigError(f"the job has no table {args.table!r}; it has {', '.join(t.name for t in job.tables)}")
    if config.kind != "collisionless":
        raise ConfigError(f"table {config.name!r} is {config.kind}: its rows are of no one id, so none can be imported")
    if expires(config) and args.last_seen is None:
        raise ConfigError(f"rows of table {config.name!r} expire: say with --last-seen when these ids were last seen")
    seen = None if args.last_seen is None else moment_ms(args.last_seen)
    with Source(args.file) as source:
        try:
            ids, values, described = _read(source, args, job, config)
            rows = _start(job, config, ids, values, seen, str(args.file))
        except InputError as error:
            raise ConfigError(f"{args.file}: {error}") from None
    print(f"{rows:,} rows of table {config.name} from {args.file} ({described}) in {Path(job.state) / 'start'}")
    return 0


def _read(source: Source, args: argparse.Namespace, job: JobConfig, config: TableConfig) -> tuple[Ids, Matrix, str]:
    """Keys (n,), values (n, dim), and what was read, for people."""
    key, matrix = source.matrix(args.key)
    described, given, places = source.ids(args.ids, args.rows, key, len(matrix))
    if args.empty is not None and given.dtype.kind in "iu":
        is_there = given != args.empty
        given, places = given[is_there], places[is_there]
    outside = np.flatnonzero((places < 0) | (places >= len(matrix)))
    if len(outside):
        raise InputError(f"id {given[outside[0]]} is in row {places[outside[0]]}, {key} has {len(matrix):,} rows")
    return _keys(given, args, job, config), matrix[places], f"{key}, ids: {described}"


def _keys(given: Any, args: argparse.Namespace, job: JobConfig, config: TableConfig) -> Ids:
    """The table's keys of ids or of strings (n,)."""
    from monolith.tables.hashing import hash_strings, salted
    from monolith.tables.schema import card_features, is_salted

    names = config.feature_names()
    if args.feature is not None and args.feature not in names:
        raise ConfigError(f"--feature {args.feature}: table {config.name!r} is read by {', '.join(names)}")
    if args.keys or (given.dtype.kind in "iu" and not is_salted(config)):
        return given  # type: ignore[no-any-return]
    name = args.feature or (names[0] if len(names) == 1 else None)
    if name is None:
        raise ConfigError(
            f"features {', '.join(names)} read table {config.name!r}: say with --feature of which one the ids are, or "
            f"with --keys that they are the table's keys"
        )
    feature = next(feature for feature in card_features(job) if feature.name == name)
    if given.dtype.kind in "iu":
        ids = given.astype(np.int64)
    elif feature.config.type == "string":
        ids = hash_strings(feature.seed, given.tolist())
    else:
        ids = _numbers(given, name, feature.config.type)
    return salted(name, ids) if is_salted(config) else ids


def _numbers(given: Any, feature: str, kind: str) -> Ids:
    """Integers that are written as text, as the keys of a JSON object are."""
    try:
        return np.array([int(text) for text in given.tolist()], np.int64)
    except (ValueError, OverflowError) as error:
        raise ConfigError(f"the ids are strings, and feature {feature} is of type {kind}: {error}") from None


def _start(job: JobConfig, config: TableConfig, keys: Ids, values: Matrix, seen: int | None, file: str) -> int:
    """Write the start, or put the table into the one that is there; how many rows the table has."""
    from monolith.disk import files_for
    from monolith.tables.dense import from_dense
    from monolith.training.learner import Learner
    from monolith.training.start import About, Outcome, check_not_begun, read_start, strings_of, write_start

    state = Path(job.state)
    check_not_begun(state)
    learner, start = Learner(job), read_start(state)
    about = About(f"monolith import {file}")
    if start is not None:
        learner.load_tables(start.snapshot.path / "tables")
        learner.load_dense_state(start.snapshot.read("dense.safetensors"))
        about = start.about
    table = from_dense(config, keys, values, event_time_ms=seen, sequence=learner.sequence)
    learner.collection.replace_tables({**learner.tables, config.name: table})
    taken = Outcome(f"table {config.name}", "taken", f"{len(table):,} rows of {file}; optimizer states start afresh")
    about = about.with_outcome(taken)
    with files_for(job.files):
        if start is None:
            write_start(state, job, learner, about)
        else:
            kept = strings_of(start.snapshot, learner)
            write_start(state, job, learner, about, kept, streams=start.streams())
    return len(table)
