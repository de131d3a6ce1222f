"""``monolith bench BENCH``: what is measured against rivals and controls; each bench is a file of its own."""

from __future__ import annotations

from typing import Any

from monolith.commands import bench_collisions, bench_ctr, bench_online


def add_parser(commands: Any) -> None:
    """Declare the command and its benches."""
    parser = commands.add_parser("bench", help="measure against rivals and controls")
    benches = parser.add_subparsers(dest="bench", required=True, metavar="BENCH")
    bench_online.add_parser(benches)
    bench_collisions.add_parser(benches)
    bench_ctr.add_parser(benches)
