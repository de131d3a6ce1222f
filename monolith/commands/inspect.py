"""``monolith inspect WHAT``: what is in a state folder, a snapshot, a stream or a store, in people's words.

``monolith inspect policy`` and ``inspect collisions`` are commands of their own, in ``inspect_policy`` and
``inspect_collisions``.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from monolith.commands import inspect_collisions, inspect_policy
from monolith.config.kinds import kind_words
from monolith.errors import ConfigError, UnavailableError
from monolith.events import WATERMARK_END, WATERMARK_START
from monolith.secrets import masked, scheme

STREAMS = ("log://", "kafka://", "parquet://")
STORES = ("lmdb://", "redis://", "rediss://")


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "inspect",
        help="say what is in a state folder, snapshot, stream or store; `inspect policy`: try other rules on a log; "
        "`inspect collisions`: which ids share rows",
        epilog="`monolith inspect policy --help`: what other admission and expiry rules would keep and cost; "
        "`monolith inspect collisions --help`: which ids of a log share rows in hashed, qr and unified tables",
    )
    parser.words["policy"] = inspect_policy.add_arguments
    parser.words["collisions"] = inspect_collisions.add_arguments
    parser.add_argument(
        "what", help="a state or snapshot folder, or a URL: log:// kafka:// parquet:// lmdb:// redis:// rediss://"
    )
    parser.add_argument("--model", help="the model's name in the store; without it, all models are listed")
    parser.add_argument(
        "--against", type=Path, metavar="STATE", help="compare a store with a snapshot, or with the newest in STATE"
    )
    parser.add_argument(
        "--head", type=int, default=0, metavar="N", help="show the first N records of a stream, decoded, as JSON lines"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print it; exit 1 if a comparison finds a difference, or cannot be made as the two are of different moments."""
    kind = f"{scheme(args.what)}://"
    if kind in STREAMS:
        from monolith.commands.inspect_stream import stream_lines

        lines = stream_lines(args.what, args.head)
    elif kind in STORES and args.against is not None:
        return _parity(args.what, args.model, args.against)
    elif kind in STORES:
        lines = _store(args.what, args.model) if args.model else _models(args.what)
    elif Path(args.what).is_dir():
        from monolith.commands.inspect_state import folder_lines

        lines = folder_lines(Path(args.what))
    else:
        raise ConfigError(
            f"{masked(args.what)!r} is neither a folder nor a URL this command knows ({', '.join(STREAMS + STORES)})"
        )
    for line in lines:
        print(line)
    return 0


def moment(time_ms: int) -> str:
    """An event time in UTC, or what stands for none."""
    if time_ms in (WATERMARK_START, WATERMARK_END):
        return "before the first event" if time_ms == WATERMARK_START else "the end of the stream"
    try:
        return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError, OSError):
        return f"{time_ms} ms"


def size(count: int) -> str:
    """Bytes for people."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            return f"{count:,.0f} {unit}" if unit == "B" else f"{count:,.1f} {unit}"
        count /= 1024  # type: ignore[assignment]
    raise AssertionError


def _models(url: str) -> Iterator[str]:
    """All models of a store, a line each; what is in the only one, where there is only one."""
    from monolith.serving.listing import models, place

    listed = models(url)
    if not listed:
        raise UnavailableError(f"{place(url)} holds no model yet: start a trainer that publishes there")
    for one in listed:
        version = one.version
        if one.fault is not None:
            yield f"model {one.model}: {one.fault}"
        elif not version.sequence:
            yield f"model {one.model}: nothing is published yet, trainer last heard of {_ago(one.trainer_age_ms)}"
        else:
            yield (
                f"model {one.model}: generation {version.generation}, sequence {version.sequence}, published "
                f"{_ago(one.published_age_ms)}, trainer last heard of {_ago(one.trainer_age_ms)}, {one.rows:,} rows"
            )
    if len(listed) == 1 and listed[0].version.sequence:
        yield from _store(url, listed[0].model)


def _ago(age_ms: float | None) -> str:
    """An age for people."""
    if age_ms is None:
        return "never"
    seconds = age_ms / 1000
    for unit, length in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit} ago"
    return f"{seconds:.1f} s ago"


def _store(url: str, model: str | None) -> Iterator[str]:
    from monolith.serving.payload import RowFormat
    from monolith.serving.store import open_store
    from monolith.tables.published import owner_of

    store = open_store(url, model, create=False)
    try:
        held = store.model()
        version, card = held.version, held.card
        yield f"store {store.url}: model {card.model!r} ({card.kind}), run {card.lineage}"
        yield f"  generation {version.generation}, sequence {version.sequence}, after step {version.step}"
        yield f"  watermark {moment(version.watermark_ms)}, published {moment(version.published_ms)}"
        yield f"  graph {size(len(held.graph))}, dense weights {size(len(held.dense))}"
        for name, dim in card.tables.items():
            rows = sum(len(ids) for ids, _, _ in store.packed_rows(name))
            readers = ", ".join(f.name for f in card.features if owner_of(name) in {r.table for r in f.reads})
            kind = f"{card.payload}, {RowFormat(card.payload, dim).width} bytes"
            yield f"  table {name}: {rows:,} rows of dim {dim} ({kind}), read by {readers}"
        for name, how in card.kinds.items():
            yield f"  table {name} is {kind_words(how)}"
    finally:
        store.close()


def _parity(url: str, model: str | None, state: Path) -> int:
    from monolith.commands.parity import against_snapshot
    from monolith.serving.listing import only_model

    if model is None and url.startswith(("redis://", "rediss://")):
        model = only_model(url)
    report = against_snapshot(url, model, state)
    for line in report.lines():
        print(line)
    return 0 if report.exact else 1
