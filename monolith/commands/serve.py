"""``monolith serve``: a serving replica behind HTTP. Loads neither torch nor Kafka."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from monolith.config.job import ServeConfig
from monolith.errors import ConfigError


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser("serve", help="answer look-ups and predictions over HTTP from a store")
    parser.add_argument("job", type=Path, nargs="?", help="the job file: its store and name are served")
    parser.add_argument(
        "--store", help="store URL, in place of a job file: lmdb://DIR, redis://HOST:PORT/DB or rediss:// (over TLS)"
    )
    parser.add_argument("--model", help="the model's name in that store (with --store); not needed where there is one")
    parser.add_argument("--mode", choices=["memory", "direct"], default="memory", help="default: memory")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="a.b=c",
        help="override one setting of the job, for instance serve.max_connections=200; without a job file, of `serve`",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Serve until stopped."""
    from monolith.serving.server import serve

    url, model, settings = what_to_serve(args)
    serve(url, model, host=args.host, port=args.port, mode=args.mode, settings=settings)
    return 0


def what_to_serve(args: argparse.Namespace) -> tuple[str, str, ServeConfig]:
    """Which store, which model and how: by a job file, or by --store and --model; --set has the last word.

    A store that is named without a model must hold one alone: raises ConfigError naming them where there are several.
    """
    from monolith.config.load import load_job, load_serve
    from monolith.config.references import check_late

    if args.job is not None:
        job = load_job(args.job, args.set)
        check_late(job, "serve", *(() if args.store else ("store",)))
        url, model = args.store or job.store, args.model or job.name
        if url is None:
            raise ConfigError(f"{args.job} has no `store`; add one, or give --store")
        return url, model, job.serve
    if not args.store:
        raise ConfigError("give a job file, or --store URL, with --model NAME where the store holds several models")
    settings = load_serve(args.set)
    if args.model:
        return args.store, args.model, settings
    from monolith.serving.listing import only_model

    return args.store, only_model(args.store), settings
