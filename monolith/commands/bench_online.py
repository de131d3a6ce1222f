"""``monolith bench online``: what online learning is worth, and what it costs to synchronise serving less often."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from monolith.errors import ConfigError

if TYPE_CHECKING:
    from monolith.config import JobConfig
    from monolith.datasets.online import Split
    from monolith.datasets.online_runs import Protocol, Run, Stage
    from monolith.datasets.streams import NamedStream

DEFAULT = "ml-100k"
ITEMS = {"ml-100k": ("movie", "genres"), "synthetic": ("item", "category")}  # which features are the item's


def add_parser(benches: Any) -> None:
    """Declare the bench."""
    online = benches.add_parser(
        "online",
        help="the same model frozen and going on learning, served at several intervals of synchronisation, over seeds",
    )
    online.add_argument(
        "own", nargs="?", type=Path, metavar="JOB", help="a job of yours, on its own streams, which are only read"
    )
    online.add_argument(
        "--data", choices=[DEFAULT, "synthetic"], help=f"a known stream (default without JOB: {DEFAULT})"
    )
    online.add_argument("--events", type=int, help="impressions (default: all of ml-100k, 100,000 synthetic ones)")
    online.add_argument("--job", type=Path, help="job file for --data (default: the demo's)")
    online.add_argument("--share", type=float, default=0.8, help="share of the stream that comes before the cut")
    online.add_argument("--from", dest="begin", metavar="TIME", help="JOB: only events from this time on (event time)")
    online.add_argument("--until", metavar="TIME", help="JOB: only events before this time")
    online.add_argument("--dir", type=Path, default=Path("build/bench-online"), help="folder for logs and results")
    online.add_argument("--set", action="append", default=[], metavar="a.b=c", help="override one setting; repeatable")
    _add_protocol(online)
    online.set_defaults(run=run)


def _add_protocol(online: argparse.ArgumentParser) -> None:
    online.add_argument("--seeds", type=_count, default=3, metavar="N", help="runs, with seeds 0 to N - 1 (default: 3)")
    online.add_argument(
        "--syncs",
        type=_counts,
        default=(5, 10, 50, 100),
        metavar="N,N",
        help="synchronisations of serving in the judged part, besides at every training step (default: 5,10,50,100)",
    )
    online.add_argument(
        "--list",
        type=_length,
        default=10,
        metavar="N",
        help="GAUC in lists: a user's next N samples, ranked in one go (default: 10), or `request`: those of a request",
    )
    online.add_argument(
        "--items",
        type=_names,
        metavar="FEATURE,...",
        help="features of the item, to judge the ranking apart from each user's level (known for --data)",
    )
    online.add_argument(
        "--history", type=_count, metavar="N", help="--data: a user's last N liked and passed items as features"
    )
    online.add_argument(
        "--online-set",
        action="append",
        default=[],
        metavar="a.b=c",
        help="override one setting from the cut on, for the ways that go on learning; repeatable",
    )


def _count(text: str) -> int:
    """A whole number from 1 on; raises what argparse takes for a wrong value."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 on")
    return int(text)


def _counts(text: str) -> tuple[int, ...]:
    return tuple(sorted({_count(part) for part in text.split(",")})) if text else ()


def _length(text: str) -> int:
    from monolith.datasets.online_runs import REQUESTS

    return REQUESTS if text == "request" else _count(text)


def _names(text: str) -> tuple[str, ...]:
    return tuple(filter(None, text.split(",")))


class Material(NamedTuple):
    """A stream that was read and cut."""

    name: str
    job: JobConfig
    online: JobConfig
    split: Split
    items: tuple[str, ...]
    stream: NamedStream | None = None  # where it was generated, to know the true probabilities


def run(args: argparse.Namespace) -> int:
    """Print table and claims; keep ``online.png``, ``online.json`` and ``runs.jsonl``, in the folder."""
    if not 0 < args.share < 1:
        raise ConfigError(f"--share {args.share:g}: allowed is more than 0 and less than 1")
    if args.own is None and (args.begin or args.until):
        raise ConfigError("--from and --until cut the streams of a job of your own: give its file")
    material = _named(args) if args.own is None else _own(args)
    from monolith.datasets.online import check_comparable
    from monolith.datasets.online_runs import Protocol, Stage

    check_comparable(material.job)
    protocol = Protocol(args.syncs, args.list, material.items)
    _check_items(material, protocol)
    stage = Stage(material.job, material.online, material.split, protocol)
    runs = _runs(args, material, stage)
    _tell(args, material, stage, runs)
    return 0


def _own(args: argparse.Namespace) -> Material:
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
    return Material(job.name, job, online, split, args.items or ())


def _named(args: argparse.Namespace) -> Material:
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
    return Material(stream.name, job, online, split, items, stream if stream.generated else None)


def _check_items(material: Material, protocol: Protocol) -> None:
    unknown = set(protocol.items) - set(material.job.feature_names()) - {f.name for f in material.job.features}
    if unknown:
        known = ", ".join(material.job.feature_names())
        raise ConfigError(f"--items {','.join(sorted(unknown))}: no table reads it; the job's features are {known}")


def _runs(args: argparse.Namespace, material: Material, stage: Stage) -> list[Run]:
    """One run a seed: those that the folder has, and the others, each written down as soon as it is over."""
    from monolith.commands.local_stream import Bar
    from monolith.datasets.online_runs import Run
    from monolith.datasets.run_file import RunFile

    key = _key(material, stage)
    with RunFile(args.dir, Run) as file:
        found = file.of(key)
        for seed in range(args.seeds):
            if seed in found:
                continue
            with Bar() as bar:
                found[seed] = _one(args, material, stage, seed, key, bar)
            file.append(found[seed])
    return [found[seed] for seed in range(args.seeds)]


def _key(material: Material, stage: Stage) -> str:
    """Of everything that a run depends on, but its seed."""
    import msgspec

    from monolith.datasets.run_file import key_of

    samples = [stage.train, stage.later]
    what = [[len(b), int(b.event_time_ms.sum()), float(b.labels.sum())] for b in samples]
    return key_of(material.job, key_of(material.online), material.name, what, msgspec.to_builtins(stage.protocol))


def _one(args: argparse.Namespace, material: Material, stage: Stage, seed: int, key: str, bar: Any) -> Run:
    from monolith.datasets.online_report import BEST
    from monolith.datasets.online_runs import Run, run_seed

    scores, epochs = run_seed(stage, seed, lambda what, done, total: bar(f"seed {seed}: {what}", done, total))
    if material.stream is not None:
        truth = material.stream.probabilities(material.split.test_keys)
        scores[BEST] = stage.judge.score(truth, truth, None)
    times = stage.test.event_time_ms
    return Run(
        key=key,
        data=material.name,
        settings=[*args.set, *(f"from the cut on: {text}" for text in args.online_set)],
        seed=seed,
        samples=len(stage.test),
        positives=int((stage.test.labels[:, 0] > 0).sum()),
        trained=len(stage.train),
        epochs=epochs,
        steps=len(stage.starts),
        hours=float(times.max() - times.min()) / 3_600_000,
        scores=scores,
        ended_ms=round(time.time() * 1000),
    )


def _tell(args: argparse.Namespace, material: Material, stage: Stage, runs: list[Run]) -> None:
    from monolith.datasets.online_report import about_gauc
    from monolith.datasets.online_table import as_dict, claims, plot, table

    group_by, judge = material.job.train.group_by, stage.judge
    print(f"{runs[0].samples:,} samples judged, {len(runs)} seeds: mean ± standard deviation over seeds")
    print("\n".join([*table(runs), "", *claims(runs)]))
    note = about_gauc(judge.labels, judge.users, group_by, is_read=group_by in material.job.feature_names())
    if note is not None:
        print(note)
    title = f"{material.name}, {material.job.model.kind}: after {args.share:.0%} of the stream, {len(runs)} seeds"
    plot(runs, args.dir / "online.png", title)
    (args.dir / "online.json").write_text(json.dumps(as_dict(runs), indent=1) + "\n")
    print(f"written: {args.dir / 'online.png'}, {args.dir / 'online.json'}, {args.dir / 'runs.jsonl'}")
