"""``monolith completion SHELL``: the script with which a shell completes the commands of this build."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

SHELLS = ("bash", "zsh", "fish")
PATHS = ("source", "what", "state", "dead")  # arguments that may be a folder, though not of that type

_USE = """\
for this shell and those to come:
  bash   monolith completion bash > ~/.local/share/bash-completion/completions/monolith
  zsh    monolith completion zsh > ~/.zfunc/_monolith      (a folder of $fpath, before compinit runs)
  fish   monolith completion fish > ~/.config/fish/completions/monolith.fish
for this shell alone:
  bash   eval "$(monolith completion bash)"
"""


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "completion",
        help="print the script that completes commands, options and files in a shell",
        epilog=_USE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("shell", choices=SHELLS)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the script."""
    import shtab

    top = args.command_line
    for parser in _parsers(top):
        for action in parser._actions:
            if action.type is Path or action.dest in PATHS:
                action.complete = shtab.FILE  # type: ignore[attr-defined]  # where shtab looks
    print(shtab.complete(top, args.shell))
    return 0


def _parsers(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    """The parser and all those of its sub-commands."""
    inner = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return [parser, *(one for action in inner for child in action.choices.values() for one in _parsers(child))]
