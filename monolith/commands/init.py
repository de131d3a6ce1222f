"""``monolith init --from DATA``: a commented job file that runs, made from a sample of somebody's own data."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from monolith.errors import ConfigError, UnavailableError
from monolith.secrets import scheme

if TYPE_CHECKING:
    from monolith.commands.init_columns import Column
    from monolith.commands.init_page import Page
    from monolith.commands.init_roles import Roles
    from monolith.commands.init_sample import ActionSample, EventSample, Sample

ROWS = 100_000
STREAMS = ("log", "kafka")
_TO_MS = {"s": 1e3, "ms": 1.0, "us": 1e-3, "ns": 1e-6}


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "init",
        help="write a commented job file that runs, from a sample of your data",
        epilog="then: monolith check JOB.yaml, monolith train JOB.yaml, monolith serve JOB.yaml",
    )
    parser.add_argument(
        "--from",
        dest="data",
        required=True,
        metavar="DATA",
        help="a Parquet file or folder, or a stream of events: log://DIR, kafka://HOST:PORT/TOPIC",
    )
    parser.add_argument("--out", type=Path, metavar="JOB.yaml", help="file to write (default: print it)")
    parser.add_argument("--force", action="store_true", help="replace the file where there is one")
    parser.add_argument("--name", help="the job's name (default: that of the data)")
    parser.add_argument("--time", metavar="COLUMN", help="Parquet: the column of the event time")
    parser.add_argument("--unit", choices=["s", "ms", "us", "ns"], help="Parquet: the unit of a numeric time column")
    parser.add_argument("--label", default="", metavar="COLUMN[,COLUMN]", help="Parquet: what is to be predicted")
    parser.add_argument("--item", metavar="COLUMN", help="Parquet: the column of the item id")
    parser.add_argument(
        "--actions", metavar="URL", help="streams: that of the actions, where --from has feature events"
    )
    parser.add_argument("--rows", type=int, default=ROWS, help=f"rows or events to sample (default: {ROWS:,})")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write or print the file. What cannot be told from the data is an error that names the option for it."""
    if args.out is not None and args.out.exists() and not args.force:
        raise ConfigError(f"{args.out} is there already; name another file by --out, or replace this one by --force")
    if args.rows < 1:
        raise ConfigError(f"--rows is {args.rows}; it takes at least 1")
    page = job_page(args)
    text = job_text(page)
    if args.out is None:
        print(text, end="")
        return 0
    try:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UnavailableError(f"cannot write {args.out}: {error}") from error
    for name, why in page.left_out.items():
        print(f"left out: {name} ({why})")
    print(f"{args.out}: read it, then\n  monolith check {args.out}\n  monolith train {args.out}")
    return 0


def job_page(args: argparse.Namespace) -> Page:
    """What is to be in the job file."""
    from monolith.commands.init_page import job_name

    page = _stream_page(args) if scheme(args.data) in STREAMS else _parquet_page(args)
    page.name = job_name(args.name or page.name)
    page.folder = _folder(page.name, args)
    if scheme(args.data) in STREAMS:
        page.input.append(("dead_letters", f"log://{page.folder}/dead", "records that cannot be used"))
    return page


def _folder(name: str, args: argparse.Namespace) -> str:
    """Where the run's own files go: a folder of the job's name, unless the data lie there."""
    places = [
        url.removeprefix("parquet://").removeprefix("log://").partition("?")[0]
        for url in (args.data, args.actions)
        if url
    ]
    return f"{name}-job" if Path(name).resolve() in {Path(place).resolve() for place in places} else name


def job_text(page: Page) -> str:
    """The text of the job file, which loads without an error."""
    from monolith.commands.init_page import page_text
    from monolith.config.load import parse_job

    text = page_text(page)
    parse_job(text, "the new job file")
    return text


# --- Parquet ----------------------------------------------------------------------------------------------------------


def _parquet_page(args: argparse.Namespace) -> Page:
    from monolith.commands.init_columns import look
    from monolith.commands.init_page import Page
    from monolith.commands.init_roles import roles_of
    from monolith.commands.init_sample import parquet_sample

    if args.actions is not None:
        raise ConfigError("--actions is for streams; a Parquet file has its label in a column (--label)")
    path = Path(args.data.removeprefix("parquet://").partition("?")[0])
    sample = parquet_sample(path, args.rows)
    labels = [name for name in args.label.split(",") if name]
    roles = roles_of(sample, time=args.time, unit=args.unit, labels=labels, item=args.item)
    taken = {roles.time, *roles.labels, *roles.left_out}
    columns = [look(name, values) for name, values in sample.columns.items() if name not in taken]
    left_out = roles.left_out | {name: f"type {kind}" for name, kind in sample.unusable.items()}
    left_out |= {c.name: c.note for c in columns if c.kind == "none"} | _unwritable(columns)
    usable = [column for column in columns if column.name not in left_out]
    moments = _moments_ms(sample, roles)
    return Page(
        sample.name,
        _origin(sample, moments),
        _parquet_input(path, roles, usable, is_sorted=moments == sorted(moments)),
        usable,
        left_out,
        _tasks(roles),
        group_by=roles.user if roles.user in {c.name for c in usable if c.is_ids and not c.is_bag} else None,
        span_s=(moments[-1] - moments[0]) / 1000 if moments == sorted(moments) and moments else 0.0,
    )


def _unwritable(columns: list[Column]) -> dict[str, str]:
    return {
        c.name: "its name has a ',' or ':', which a Parquet URL divides by" for c in columns if set(c.name) & {",", ":"}
    }


def _moments_ms(sample: Sample, roles: Roles) -> list[float]:
    factor = 1.0 if roles.unit is None else _TO_MS[roles.unit]
    return [value * factor for value in sample.columns[roles.time] if value is not None]


def _origin(sample: Sample, moments: list[float]) -> list[str]:
    from monolith.commands.init_page import day

    of = f"of {sample.total:,}" if sample.total > sample.rows else "all of them"
    when = f", {day(min(moments))} to {day(max(moments))}" if moments else ""
    return [f"Made by `monolith init` from {sample.rows:,} rows ({of}) of {' '.join(sample.url.split())}{when}."]


def _tasks(roles: Roles) -> list[tuple[str, str]]:
    from monolith.commands.init_page import job_name

    if len(roles.labels) == 1:
        (column,) = roles.labels
        return [(job_name(column), roles.labels[column])]
    return [(job_name(column), loss) for column, loss in roles.labels.items()]


def _parquet_input(path: Path, roles: Roles, columns: list[Column], *, is_sorted: bool) -> list[tuple[str, Any, str]]:
    from monolith.commands.init_page import job_name

    for name in (roles.time, roles.item, *roles.labels):
        if set(name) & {",", ":"} and name in roles.labels:
            raise ConfigError(f"{path}: the label {name!r} has a ',' or ':' in its name: rename the column")
    options = {"time": quote(roles.time, safe="")}
    if roles.unit is not None:
        options["unit"] = roles.unit
    options["item"] = quote(roles.item, safe="")
    if roles.request is not None:
        options["request"] = quote(roles.request, safe="")
    by_task = ",".join(f"{job_name(name)}:{quote(name, safe='')}" for name in roles.labels)
    options["label"] = by_task if len(roles.labels) > 1 else quote(next(iter(roles.labels)), safe="")
    options["features"] = ",".join(quote(column.name, safe="") for column in columns)
    place = str(path).replace("${", "$${")
    url = f"parquet://{place}?" + "&".join(f"{key}={value}" for key, value in options.items() if value)
    comment = "" if is_sorted else "its rows are not in order of time: sort it, then later rows are learnt later"
    lines: list[tuple[str, Any, str]] = [("samples", url, comment)]
    if roles.is_own_clock:
        lines.append(("check_time_unit", False, "the times are no dates: taken as seconds of a clock of their own"))
    return lines


# --- streams ----------------------------------------------------------------------------------------------------------


def _stream_page(args: argparse.Namespace) -> Page:
    from monolith.commands.init_columns import look
    from monolith.commands.init_page import Page, day
    from monolith.commands.init_roles import unit_of
    from monolith.commands.init_sample import ActionSample, event_sample

    for option in ("time", "unit", "label", "item"):
        if getattr(args, option):
            raise ConfigError(f"--{option} names a column of a Parquet file; events say themselves what they hold")
    sample = event_sample(args.data, args.rows)
    if isinstance(sample, ActionSample):
        raise ConfigError(f"{sample.url} holds actions: give it as --actions, and the feature events as --from")
    unit = unit_of(sample.times)
    factor = _TO_MS[unit or "ms"]
    columns = [look(name, values) for name, values in sample.columns.items()]
    left_out = {column.name: column.note for column in columns if column.kind == "none"}
    low, high = min(sample.times) * factor, max(sample.times) * factor
    page = Page(
        sample.name,
        [
            f"Made by `monolith init` from {sample.rows:,} events (of {sample.total:,}) of {_shown(sample.url)}, "
            f"{day(low)} to {day(high)}."
        ],
        [],
        [column for column in columns if column.kind != "none"],
        left_out,
        [("label", "log")],
        group_by=_user(columns),
        span_s=(high - low) / 1000,
    )
    _name_streams(page, sample, args.actions, factor)
    page.input.append(("follow", True, "false: stop at the end that the streams have when the job starts"))
    if unit not in (None, "ms"):
        page.input.append(("time_unit", unit, "event_time_ms of these events is in this unit"))
    if left_out:
        page.input.append(("unknown_features", "ignore", "some features are left out below"))
    if sample.undecoded:
        page.origin.append(f"Some records are no events: {' '.join(sample.undecoded.split())[:150]}")
    return page


def _name_streams(page: Page, sample: EventSample, actions_url: str | None, factor: float) -> None:
    from monolith.commands.init_roles import loss_of
    from monolith.commands.init_sample import ActionSample, event_sample

    if sample.kind == "sample":
        if actions_url is not None:
            raise ConfigError(f"{_shown(sample.url)} holds joined samples, with their labels: leave --actions out")
        page.input.append(("samples", sample.url, ""))
        page.tasks = [(task, loss_of(labels) or "log") for task, labels in sample.labels.items()]
        return
    if actions_url is None:
        raise ConfigError(
            f"{_shown(sample.url)} holds feature events, which have no label: give --actions URL, the stream of what "
            f"users did, or a stream of joined samples"
        )
    actions = event_sample(actions_url, ROWS)
    if not isinstance(actions, ActionSample):
        raise ConfigError(f"--actions {_shown(actions_url)} holds no actions")
    page.input += [("features", sample.url, ""), ("actions", actions_url, "")]
    page.join = _join(sample, actions, factor)


def _join(sample: EventSample, actions: ActionSample, factor: float) -> list[tuple[str, Any, str]]:
    counted = ", ".join(f"{name} {count:,}" for name, count in actions.names.most_common(8))
    lines: list[tuple[str, Any, str]] = [
        ("positive_actions", sorted(actions.names), f"what makes a positive; seen: {' '.join(counted.split())}")
    ]
    delays = sorted(
        (actions.times[key][0] - shown) * factor / 1000 for key, shown in sample.keys.items() if key in actions.times
    )
    if not delays:
        lines.append(("window_s", 1800, "none of the actions sampled is of an event sampled: set it yourself"))
        return lines
    late = max(delays[min(len(delays) - 1, math.ceil(len(delays) * 0.99))], 0.0)
    share = len(delays) / len(sample.keys)
    window = max(1, math.ceil(late * 1.5))
    comment = f"99 % of the actions come within {late:,.1f} s; of the events, {share:.1%} have one in the sample"
    lines.append(("window_s", window, comment))
    if window > 3600:
        lines.append(("dedup_s", window, "no shorter than the window"))
    return lines


def _user(columns: list[Column]) -> str | None:
    from monolith.commands.init_roles import is_user

    return next((c.name for c in columns if is_user(c.name) and c.is_ids and not c.is_bag), None)


def _shown(url: str) -> str:
    from monolith.secrets import masked

    return masked(url)
