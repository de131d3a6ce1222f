"""The streams that ``monolith bench`` compares on: a job's own, a known one, or a prepared data set, read and cut."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from monolith.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from monolith.commands.local_stream import Bar
    from monolith.config import JobConfig
    from monolith.datasets.online import Split
    from monolith.datasets.sets.about import About
    from monolith.datasets.streams import NamedStream
    from monolith.streaming.runner import Step

DEFAULT = "ml-100k"
STREAMS = (DEFAULT, "synthetic")
_OF_MOVIES = ("movie", "genres")
ITEMS = {  # which features are the item's
    "ml-100k": _OF_MOVIES,
    "ml-1m-arrival": _OF_MOVIES,
    "ml-25m": _OF_MOVIES,
    "synthetic": ("item", "category"),
    "trivago": ("item", "position", "price", "price_rank", "is_last"),
    "recsys-2019": ("item", "position", "price", "price_rank", "is_last"),
}


class Material(NamedTuple):
    """A stream that was read and cut."""

    name: str
    job: JobConfig
    online: JobConfig
    split: Split
    items: tuple[str, ...]
    lists: int  # how long lists are, unless the command line says
    ordered: bool = True  # by time
    stream: NamedStream | None = None  # where it was generated, to know the true probabilities


LISTS = 10  # a user's next samples that are ranked in one go, where a stream has no lists of its own


def open_material(args: argparse.Namespace) -> Material:
    """What the command line names."""
    if args.own is not None:
        return own(args)
    return named(args) if (args.data or DEFAULT) in STREAMS else prepared(args)


def own(args: argparse.Namespace) -> Material:
    """The job's own streams, up to their present ends; its state and its store are not touched."""
    for option in ("data", "events", "job", "history"):
        if getattr(args, option) is not None:
            raise ConfigError(f"--{option} is for the known streams; {args.own} is compared on its own")
    from monolith.commands.local_stream import Bar
    from monolith.commands.moments import between
    from monolith.config.load import load_job

    job, online = load_job(args.own, args.set), load_job(args.own, [*args.set, *args.online_set])
    part = between(args.begin, args.until)
    from monolith.datasets.online import check_comparable, cut_of, read_bounded, split_at

    check_comparable(job)
    with Bar() as bar:
        steps, dropped = read_bounded(job, part, bar, keys=True)
    print(f"{job.name}: {sum(len(step.batch) for step in steps):,} samples of its own streams", flush=True)
    if dropped:
        print("left out: " + "; ".join(f"{what} {count:,}" for what, count in dropped.items()), flush=True)
    split = split_at(steps, cut_of(steps, args.share))
    return Material(job.name, job, online, split, args.items or (), LISTS)


def named(args: argparse.Namespace) -> Material:
    """A known stream, written to logs below ``--dir`` and read as the job reads it."""
    from monolith.commands.local_stream import fresh_folder, local_sets, urls_of, write_stream
    from monolith.config.load import load_job
    from monolith.datasets.history import History, reading_history, with_history
    from monolith.datasets.impressions import timeline
    from monolith.datasets.online import read_steps, split_at
    from monolith.datasets.streams import JOBS, open_stream

    data, folder = args.data or DEFAULT, args.dir / "stream"
    stream, file = open_stream(data, args.events), args.job or JOBS[data]
    sets = [*local_sets(folder), *args.set]
    job, online = load_job(file, sets), load_job(file, [*sets, *args.online_set])
    start = stream.start
    if args.history is not None:
        history = History("user", ITEMS[data][0], args.history, round(1000 * job.join.window_s))
        job, online = reading_history(job, history), reading_history(online, history)

        def start() -> Any:
            return with_history(stream.start(), history)

    fresh_folder(folder)
    print(f"{stream.name}: {stream.count:,} impressions, {stream.origin}")
    write_stream(urls_of(job), timeline(start()), sum(1 for _ in timeline(stream.start())))
    split = split_at(read_steps(job, folder / "journal"), stream.cut_ms(args.share))
    items = args.items if args.items is not None else ITEMS[data]
    return Material(stream.name, job, online, split, items, LISTS, stream=stream if stream.generated else None)


def prepared(args: argparse.Namespace, *, in_order: bool = True) -> Material:
    """A set that `monolith data prepare` wrote, by its name or its folder; its three parts in order are the stream.

    A set without an order of time is refused; not ``in_order``: its test part is judged, whatever ``--share`` says.
    """
    from monolith.commands.local_stream import Bar
    from monolith.config.load import load_job
    from monolith.datasets.online import Split, cut_of, split_at
    from monolith.datasets.sets.about import read_about

    if args.history is not None:
        raise ConfigError(f"--history is for the streams {' and '.join(STREAMS)}; {args.data} is compared as it is")
    folder = _folder_of(args.data)
    about, file = read_about(folder), args.job or folder / "job.yaml"
    ordered = about.split.kind in ("time", "lists")
    if in_order and not ordered:
        raise ConfigError(f"{about.name} is split {about.split}: it has no order of time to go on learning in")
    job, online = load_job(file, args.set), load_job(file, [*args.set, *args.online_set])
    with Bar() as bar:
        if ordered:
            steps = read_parts(job, about, folder, bar, most=args.events)
            split = split_at(steps, cut_of(steps, args.share))
        else:
            train = read_parts(job, about, folder, bar, ("train",), most=args.events)
            split = Split(train, read_parts(job, about, folder, bar, ("test",)), -(2**63))
    count = sum(len(step.batch) for step in (*split.earlier, *split.later))
    print(f"{about.name}: {count:,} samples, {about.time}", flush=True)
    items = args.items if args.items is not None else ITEMS.get(about.name, (about.item,))
    return Material(about.name, job, online, split, items, 0 if list_column(folder) else LISTS, ordered)


def _folder_of(data: str) -> Path:
    """The folder of a prepared set."""
    from monolith.datasets.sets.about import ABOUT
    from monolith.datasets.sets.registry import SETS, prepared_set

    folder = prepared_set(data)
    if (folder / ABOUT).is_file():
        return folder
    if data in SETS:
        text = (
            f"--data {data} is not prepared: `monolith data prepare {data} --from DIR` does that, with its files in DIR"
        )
        raise ConfigError(f"{text}; or name the folder of a prepared set")
    known = ", ".join(dict.fromkeys((*STREAMS, *SETS)))
    raise ConfigError(f"there is no data set {data!r}; allowed: {known}, or the folder of a prepared set")


def list_column(folder: Path) -> bool:
    """Whether the samples of a prepared set say which of them were shown together."""
    import pyarrow.parquet as pq

    from monolith.datasets.sets.description import LIST

    return LIST in pq.ParquetFile(folder / "test.parquet").schema_arrow.names


def read_parts(
    job: JobConfig,
    about: About,
    folder: Path,
    bar: Bar,
    parts: Sequence[str] = ("train", "valid", "test"),
    *,
    most: int | None = None,
) -> list[Step]:
    """The steps of these parts of a prepared set, one after the other, up to ``most`` samples; a list is a request."""
    import msgspec

    from monolith.datasets.online import read_bounded
    from monolith.datasets.sets.description import LIST
    from monolith.datasets.sets.job_text import samples_url
    from monolith.streaming.between import Between

    request = f"&request={LIST}" if list_column(folder) else ""
    steps: list[Step] = []
    for part in parts:
        left = None if most is None else most - sum(len(step.batch) for step in steps)
        if left is not None and left <= 0:
            break
        url = samples_url(about, (folder / f"{part}.parquet").absolute()) + request
        source = msgspec.structs.replace(job.input, samples=url, features=None, actions=None)
        steps += read_bounded(msgspec.structs.replace(job, input=source), Between(), bar, keys=True, most=left)[0]
    return steps
