"""``monolith bench online``: what online learning is worth, and what it costs to synchronise serving less often."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monolith.commands.bench_material import DEFAULT, STREAMS, open_material
from monolith.errors import ConfigError

if TYPE_CHECKING:
    from monolith.commands.bench_material import Material
    from monolith.datasets.online_runs import Protocol, Run, Stage


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
        "--data",
        metavar="NAME",
        help=f"{' or '.join(STREAMS)}, or a set that `monolith data prepare` made, by its name or folder "
        f"(default without JOB: {DEFAULT})",
    )
    online.add_argument("--events", type=int, help="how many, the first ones (default: all, 100,000 synthetic ones)")
    online.add_argument(
        "--job", type=Path, help="job file for --data (default: the demo's, or the one beside a prepared set)"
    )
    online.add_argument("--share", type=float, default=0.8, help="share of the stream that comes before the cut")
    online.add_argument("--from", dest="begin", metavar="TIME", help="JOB: only events from this time on (event time)")
    online.add_argument("--until", metavar="TIME", help="JOB: only events before this time")
    online.add_argument("--dir", type=Path, default=Path("build/bench-online"), help="folder for logs and results")
    online.add_argument("--set", action="append", default=[], metavar="a.b=c", help="override one setting; repeatable")
    _add_protocol(online)
    online.set_defaults(run=run)


def _add_protocol(online: argparse.ArgumentParser) -> None:
    online.add_argument("--seeds", type=count, default=3, metavar="N", help="runs, with seeds 0 to N - 1 (default: 3)")
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
        metavar="N",
        help="GAUC in lists: a user's next N samples, ranked in one go (default: 10), or `request`: those of a request "
        "(default where a prepared set has lists)",
    )
    online.add_argument(
        "--items",
        type=names,
        metavar="FEATURE,...",
        help="features of the item, to judge the ranking apart from each user's level (known for --data)",
    )
    online.add_argument(
        "--history", type=count, metavar="N", help="--data: a user's last N liked and passed items as features"
    )
    online.add_argument(
        "--online-set",
        action="append",
        default=[],
        metavar="a.b=c",
        help="override one setting from the cut on, for the ways that go on learning; repeatable",
    )


def count(text: str) -> int:
    """A whole number from 1 on; raises what argparse takes for a wrong value."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 on")
    return int(text)


def _counts(text: str) -> tuple[int, ...]:
    return tuple(sorted({count(part) for part in text.split(",")})) if text else ()


def _length(text: str) -> int:
    from monolith.datasets.online_runs import REQUESTS

    return REQUESTS if text == "request" else count(text)


def names(text: str) -> tuple[str, ...]:
    """What stands between commas."""
    return tuple(filter(None, text.split(",")))


def run(args: argparse.Namespace) -> int:
    """Print table and claims; keep ``online.png``, ``online.json`` and ``runs.jsonl``, in the folder."""
    if not 0 < args.share < 1:
        raise ConfigError(f"--share {args.share:g}: allowed is more than 0 and less than 1")
    if args.own is None and (args.begin or args.until):
        raise ConfigError("--from and --until cut the streams of a job of your own: give its file")
    material = open_material(args)
    from monolith.datasets.online import check_comparable
    from monolith.datasets.online_runs import Protocol, Stage

    check_comparable(material.job)
    length = material.lists if args.list is None else args.list
    protocol = Protocol(args.syncs, length, material.items)
    _check_items(material, protocol)
    stage = Stage(material.job, material.online, material.split, protocol)
    runs = _runs(args, material, stage)
    _tell(args, material, stage, runs)
    return 0


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
    from monolith.offline.ran import how_it_ran

    group_by, judge = material.job.train.group_by, stage.judge
    print(f"{runs[0].samples:,} samples judged, {len(runs)} seeds: mean ± standard deviation over seeds")
    print("\n".join([*table(runs), "", *claims(runs)]))
    note = about_gauc(judge.labels, judge.users, group_by, is_read=group_by in material.job.feature_names())
    if note is not None:
        print(note)
    title = f"{material.name}, {material.job.model.kind}: after {args.share:.0%} of the stream, {len(runs)} seeds"
    plot(runs, args.dir / "online.png", title)
    (args.dir / "online.json").write_text(json.dumps(how_it_ran() | as_dict(runs), indent=1) + "\n")
    print(f"written: {args.dir / 'online.png'}, {args.dir / 'online.json'}, {args.dir / 'runs.jsonl'}")
