"""``monolith data``: get a data set, or write a stream of events to a log or to Kafka, as a producer of yours would."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from monolith.errors import ConfigError
from monolith.secrets import masked


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser("data", help="get data sets; write streams of events to try things on")
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
