"""The ``monolith`` command. Each sub-command lives in its own module under ``monolith.commands``.

Nothing heavy is imported here: torch only loads in the commands that train.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from importlib import import_module
from types import TracebackType
from typing import Any

from monolith.commands.ranks import check_is_alone
from monolith.errors import MonolithError
from monolith.secrets import scrubbed

COMMANDS = (
    "init",
    "check",
    "train",
    "fit",
    "evaluate",
    "sweep",
    "optembed",
    "replay",
    "rollback",
    "serve",
    "bench",
    "export",
    "import",
    "inspect",
    "plot",
    "redeliver",
    "data",
    "demo",
    "schema",
    "completion",
)

_MODULES = {"import": "import_table"}  # where the command's name is no module's


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command and exit: 0 done, 1 failed with a message, 2 wrong usage, 130 interrupted."""
    args = parser().parse_args(argv)
    _log_without_secrets()
    logging.getLogger("monolith").setLevel(args.log_level.upper())  # libraries only warn
    try:
        check_is_alone(args.command)
        code = args.run(args)
    except MonolithError as error:
        if args.log_level == "debug":
            raise
        print(scrubbed(f"monolith {args.command}: {type(error).__name__}: {error}"), file=sys.stderr)
        code = 1
    except ModuleNotFoundError as error:
        from monolith.extras import advice

        if args.log_level == "debug" or (missing := advice(error.name or "")) is None:
            raise
        print(f"monolith {args.command}: {missing}", file=sys.stderr)
        code = 1
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:  # `monolith inspect ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except OSError as error:  # a path or a disk that refuses where nobody had more to say
        if args.log_level == "debug":
            raise
        print(scrubbed(f"monolith {args.command}: {error}"), file=sys.stderr)
        code = 1
    sys.exit(code)


class _Formatter(logging.Formatter):
    """One event a line, tracebacks behind it, without secrets."""

    def format(self, record: logging.LogRecord) -> str:
        return scrubbed(super().format(record))


def _log_without_secrets() -> None:
    """Log to stderr, libraries' warnings only; tracebacks of any thread go the same way."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter("%(asctime)s %(levelname)-7s %(name)s %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])

    def show(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
        print(scrubbed("".join(traceback.format_exception(kind, error, trace))), file=sys.stderr, end="")

    sys.excepthook = show
    threading.excepthook = lambda fault: show(fault.exc_type, fault.exc_value, fault.exc_traceback)


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        """Print the lines and exit 0."""
        from monolith.version import lines

        parser._print_message("\n".join(lines()) + "\n", sys.stdout)  # as argparse does: a closed pipe is no fault
        parser.exit()


class CommandParser(argparse.ArgumentParser):
    """One command. A first word of ``words`` begins a command of its own, whose arguments are declared when it is used:
    `monolith inspect policy` beside `monolith inspect WHAT`.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.words: dict[str, Callable[[argparse.ArgumentParser], None]] = {}

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse does."""
        if not args or args[0] not in self.words:
            return super().parse_known_args(args, namespace)
        inner = argparse.ArgumentParser(prog=f"{self.prog} {args[0]}")
        self.words[args[0]](inner)
        return inner.parse_known_args(args[1:], namespace)


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser(prog="monolith", description="Train embedding tables online and serve them.")
    top.add_argument("--version", action=_Version, nargs=0, help="say which build this is, and what it runs on")
    top.add_argument("--log-level", choices=["debug", "info", "warning", "error"], default="info")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=CommandParser)
    for name in COMMANDS:
        import_module(f"monolith.commands.{_MODULES.get(name, name)}").add_parser(commands)
    top.set_defaults(command_line=top)  # what `completion` completes
    return top
