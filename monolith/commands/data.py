"""``monolith data``: list, get, prepare and describe data sets, or write a stream of events, as a producer would."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monolith.errors import ConfigError
from monolith.secrets import masked

if TYPE_CHECKING:
    from monolith.datasets.sets.description import DataSet


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser("data", help="list, get, prepare data sets; write streams of events to try things on")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    get = actions.add_parser("get", help="download a data set once, check it, and keep it outside the checkout")
    get.add_argument("name", choices=["ml-100k"], help="ml-100k: MovieLens, 100,000 ratings, 5 MB")
    get.add_argument(
        "--to", type=Path, help="folder to keep it in (default: ~/.cache/monolith/NAME, or $MONOLITH_DATA/NAME)"
    )
    get.set_defaults(run=_get)
    write = actions.add_parser("write", help="write a stream's feature and action events, in order of event time")
    write.add_argument("name", choices=["ml-100k", "synthetic"])
    write.add_argument("--features", required=True, metavar="URL", help="log://DIR or kafka://HOST:PORT/TOPIC")
    write.add_argument("--actions", required=True, metavar="URL", help="likewise, another one")
    write.add_argument("--events", type=int, help="impressions (default: all of ml-100k, 100,000 synthetic ones)")
    write.add_argument("--rate", type=float, help="events a second (default: as fast as it goes)")
    write.set_defaults(run=_write)
    actions.add_parser("list", help="the data sets that can be prepared, and the files they are made of").set_defaults(
        run=_list
    )
    _add_prepare(actions)
    describe = actions.add_parser("describe", help="what is known of a prepared data set")
    describe.add_argument("name", help="the name of a prepared set, or its folder")
    describe.set_defaults(run=_describe)


def _add_prepare(actions: Any) -> None:
    prepare = actions.add_parser(
        "prepare", help="read a data set's files and write training, validation and test part as Parquet for `fit`"
    )
    prepare.add_argument(
        "name", help="a name of `monolith data list`, or a description file (.yaml) of Parquet of yours"
    )
    prepare.add_argument(
        "--from", dest="source", type=Path, metavar="DIR", help="folder of its files (default: $MONOLITH_DATA/NAME)"
    )
    prepare.add_argument("--to", type=Path, metavar="DIR", help="default: $MONOLITH_DATA/prepared/NAME")
    prepare.add_argument(
        "--max-broken", type=float, default=0.001, metavar="SHARE", help="of lines that may be broken (default: 0.001)"
    )
    prepare.add_argument("--any-version", action="store_true", help="take files of another checksum or length")
    prepare.add_argument("--rows", type=int, help="planted: how many samples (default: 200,000)")
    prepare.add_argument("--seed", type=int, help="planted: of everything (default: 0)")
    prepare.set_defaults(run=_prepare)


def _get(args: argparse.Namespace) -> int:
    """Print the terms, then where the data is."""
    from monolith.datasets.ml100k_origin import TERMS, get

    print(TERMS)
    folder, how = get(args.to)
    print(f"{args.name}: {folder} ({how})")
    return 0


def _write(args: argparse.Namespace) -> int:
    """Append the events and print how many there were."""
    from monolith.commands.local_stream import write_stream
    from monolith.datasets.impressions import timeline
    from monolith.datasets.streams import open_stream

    if args.rate is not None and not args.rate > 0:
        raise ConfigError(f"--rate is {args.rate:g}; it takes events a second, above 0")
    stream = open_stream(args.name, args.events)
    total = sum(1 for _ in timeline(stream.start()))
    written = write_stream((args.features, args.actions), timeline(stream.start()), total, per_second=args.rate)
    urls = f"{masked(args.features)} and {masked(args.actions)}"
    print(f"{written:,} events of {stream.count:,} impressions written to {urls}")
    return 0


def _list(_args: argparse.Namespace) -> int:
    """A paragraph for each set."""
    from monolith.datasets.sets.registry import SETS

    for data in SETS.values():
        files = ", or ".join(" ".join(form.files) for form in data.forms) or "none, it is generated"
        print(f"{data.name}: {data.title}\n  files: {files}\n  label: {data.label}; split: {data.split}")
    return 0


def _prepare(args: argparse.Namespace) -> int:
    """Print the terms first, and what was made last."""
    from monolith.commands.local_stream import Bar
    from monolith.datasets.sets.prepare import prepare
    from monolith.datasets.sets.registry import find, prepared_folder

    if not 0 <= args.max_broken <= 1:
        raise ConfigError(f"--max-broken {args.max_broken:g}: allowed is a share from 0 to 1")
    data, folder = find(args.name, args.source)
    if data.name == "planted":
        data, folder = _planted(args), Path()
    elif args.rows is not None or args.seed is not None:
        raise ConfigError(
            f"--rows and --seed are of the set planted, which is generated; {data.name} is read from files"
        )
    if data.name == "ml-100k" and args.source is None and not folder.is_dir():
        from monolith.datasets.ml100k_origin import get

        folder, _ = get()
    print(f"terms of {data.name}: {data.terms}", flush=True)
    out = args.to or prepared_folder(data.name)
    with Bar("row") as bar:
        limits = {"most_broken": args.max_broken, "any_version": args.any_version}
        about = prepare(data, folder, out, tell=bar, **limits)
    print("\n".join(about.lines()[:-1]))
    print(f"written: {out}; `monolith fit {out / 'job.yaml'}` trains on it")
    return 0


def _planted(args: argparse.Namespace) -> DataSet:
    from monolith.datasets.sets.planted import Planted
    from monolith.datasets.sets.registry import generated

    settings = Planted()
    rows, seed = args.rows or settings.rows, args.seed or 0
    if rows < 100 or seed < 0:
        raise ConfigError(f"--rows {rows}, --seed {seed}: allowed are at least 100 rows, and a seed from 0 on")
    return generated(Planted(rows=rows, seed=seed))


def _describe(args: argparse.Namespace) -> int:
    """What `about.json` says."""
    from monolith.datasets.sets.about import read_about
    from monolith.datasets.sets.registry import prepared_set

    print("\n".join(read_about(prepared_set(args.name)).lines()))
    return 0
