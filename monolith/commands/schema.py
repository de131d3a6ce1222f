"""``monolith schema``: the JSON Schema of job files, for editors."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from monolith.disk import remedy
from monolith.errors import UnavailableError


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "schema",
        help="print the JSON Schema of job files, for editors",
        epilog="an editor reads it with `# yaml-language-server: $schema=job.schema.json` as a job file's first line",
    )
    parser.add_argument("--out", type=Path, help="write it to this file instead")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print it or write it."""
    from monolith.config.json_schema import schema_text

    if args.out is None:
        print(schema_text(), end="")
        return 0
    try:
        args.out.write_text(schema_text(), encoding="utf-8")
    except OSError as error:
        raise UnavailableError(f"cannot write {args.out}: {error}; {remedy(error)}") from error
    print(f"{args.out}: in a job file's first line write  # yaml-language-server: $schema={args.out}")
    return 0
