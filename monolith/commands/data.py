"""``monolith data get NAME``: bring a data set to this machine, say whose it is, and check that it is whole."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser("data", help="get data sets to try things on")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    get = actions.add_parser("get", help="download a data set once, check it, and keep it outside the checkout")
    get.add_argument("name", choices=["ml-100k"], help="ml-100k: MovieLens, 100,000 ratings, 5 MB")
    get.add_argument(
        "--to", type=Path, help="folder to keep it in (default: ~/.cache/monolith/NAME, or $MONOLITH_DATA/NAME)"
    )
    get.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the terms, then where the data is."""
    from monolith.datasets.ml100k_origin import TERMS, get

    print(TERMS)
    folder, how = get(args.to)
    print(f"{args.name}: {folder} ({how})")
    return 0
