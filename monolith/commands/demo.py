"""``monolith demo``: the whole system on this machine, without any server, ending with one page of figures.

The first part of a stream is written to a log as a backlog. The training daemon follows the log, joins, trains and
publishes to a store; a replica serves that store. The rest is written at a live pace, so that the time from an event to
its served row is a live figure. Then the daemon is stopped and everything is held against it: the same model trained
three other ways on its own samples, and every row of the store.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monolith.errors import ConfigError

if TYPE_CHECKING:
    from monolith.commands.demo_page import Outcome
    from monolith.commands.demo_run import Demo


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser("demo", help="run everything on this machine and show what comes out")
    parser.add_argument("--data", choices=["ml-100k", "synthetic"], default="ml-100k")
    parser.add_argument("--events", type=int, help="impressions (default: all of ml-100k, 100,000 synthetic ones)")
    parser.add_argument("--rate", type=float, default=1000.0, help="events a second in the live part (default: 1000)")
    parser.add_argument("--dir", type=Path, default=Path("build/demo"), help="folder for everything it writes")
    parser.add_argument("--job", type=Path, help="job file (default: one for the data, jobs/*.yaml of the source)")
    parser.add_argument("--set", action="append", default=[], metavar="a.b=c", help="override one setting; repeatable")
    parser.add_argument("--port", type=int, help="the server's port (default: a free one)")
    parser.add_argument("--keep-serving", action="store_true", help="leave the server running until interrupted")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the page; exit 1 if the store's rows or the replayed ones are not exactly the trainer's."""
    from monolith.commands.demo_page import page
    from monolith.commands.demo_run import Demo

    if not args.rate > 0:
        raise ConfigError(f"--rate is {args.rate:g}; it takes events a second, above 0")
    if args.data == "ml-100k":
        from monolith.datasets.ml100k_origin import TERMS

        print(TERMS, flush=True)
    if args.log_level == "info":
        logging.getLogger("monolith").setLevel(logging.WARNING)  # the bars and the page say it
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that the children end as well
    with ExitStack() as children:
        demo = Demo(args.data, args.events, args.dir, job=args.job, sets=args.set, port=args.port, children=children)
        outcome = _story(demo, args.rate)
        print(page(outcome), flush=True)
        if args.keep_serving:
            _serve_on(demo)
    return 0 if outcome.exact else 1


def _story(demo: Demo, rate: float) -> Outcome:
    _say("1/6 writing the first part of the stream into the log")
    demo.write_backlog()
    _say("2/6 `monolith train` follows the log, joins, trains and publishes")
    demo.train_backlog()
    _say("3/6 `monolith serve` serves the store")
    demo.serve()
    _say(f"4/6 the rest of the stream arrives live, {rate:,.0f} events a second")
    demo.live(rate)
    _say("5/6 stopping the trainer; comparing its rows with the store's")
    demo.stop_trainer()
    _say("6/6 training the same model the three other ways, on the daemon's own samples")
    return demo.judge()


def _serve_on(demo: Demo) -> None:
    print(f"serving on {demo.server.url} until you press Ctrl-C", flush=True)
    try:
        demo.server.process.wait()
    except KeyboardInterrupt:
        return


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
