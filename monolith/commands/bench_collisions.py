"""``monolith bench collisions``: collisionless tables against hashed ones of several sizes, over seeds."""

from __future__ import annotations

import argparse
import json
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monolith.commands.bench_material import DEFAULT, ITEMS, STREAMS, Material, named, prepared
from monolith.commands.bench_online import count, names
from monolith.errors import ConfigError

if TYPE_CHECKING:
    from monolith.config import JobConfig
    from monolith.datasets.collisions import Run
    from monolith.datasets.served import Ints


def add_parser(benches: Any) -> None:
    """Declare the bench."""
    parser = benches.add_parser(
        "collisions", help="one row an id against hashed tables of several sizes: AUC by epoch and along a stream"
    )
    parser.add_argument(
        "--data",
        default=DEFAULT,
        metavar="NAME",
        help=f"{' or '.join(STREAMS)}, or a set that `monolith data prepare` made, by its name or folder "
        f"(default: {DEFAULT})",
    )
    parser.add_argument("--events", type=int, help="how many, the first ones (default: all, 100,000 synthetic ones)")
    parser.add_argument("--job", type=Path, help="job file (default: the demo's, or the one beside a prepared set)")
    parser.add_argument(
        "--tables", type=names, metavar="TABLE,...", help="tables to compare (default: those of users and items)"
    )
    parser.add_argument(
        "--sizes",
        type=_sizes,
        default=(6.0, 1.0, 0.5, 0.25, 0.1),
        metavar="X,X",
        help="rows an id of the hashed tables (default: 6,1,0.5,0.25,0.1)",
    )
    parser.add_argument("--epochs", type=count, default=5, metavar="N", help="over the first part (default: 5)")
    parser.add_argument("--seeds", type=count, default=3, metavar="N", help="runs, with seeds 0 to N - 1 (default: 3)")
    parser.add_argument("--share", type=float, default=0.8, help="share of the stream that comes before the cut")
    parser.add_argument("--dir", type=Path, default=Path("build/bench-collisions"), help="folder for logs and results")
    parser.add_argument("--set", action="append", default=[], metavar="a.b=c", help="override one setting; repeatable")
    parser.set_defaults(run=run, own=None, items=None, history=None, online_set=[])


def _sizes(text: str) -> tuple[float, ...]:
    try:
        sizes = tuple(float(part) for part in text.split(","))
    except ValueError:
        sizes = ()
    if not sizes or min(sizes) <= 0:
        raise argparse.ArgumentTypeError(f"{text!r}: sizes are numbers above 0, with commas between them")
    return sizes


def run(args: argparse.Namespace) -> int:
    """Print rates, table and claims; keep ``collisions.png``, ``collisions.json`` and ``runs.jsonl`` in the folder."""
    if not 0 < args.share < 1:
        raise ConfigError(f"--share {args.share:g}: allowed is more than 0 and less than 1")
    material = named(args) if args.data in STREAMS else prepared(args, in_order=False)
    from monolith.datasets.collisions import check_tables, ids_of, variants
    from monolith.datasets.online import check_both, check_comparable

    check_comparable(material.job)
    check_both(material.split.test, "the judged part")
    tables = args.tables or _tables_of(material)
    check_tables(material.job, tables)
    features = {table.name: table.feature_names()[0] for table in material.job.tables if table.name in tables}
    ids = {name: ids_of(material.split, feature) for name, feature in features.items()}
    jobs = variants(material.job, ids, args.sizes)
    _tell(args, material, _runs(args, material, jobs, ids))
    return 0


def _tables_of(material: Material) -> tuple[str, ...]:
    """Those that read users, or the items themselves, and nothing else."""
    wanted = {material.job.train.group_by, *(ITEMS.get(material.name, material.items)[:1])}
    return tuple(table.name for table in material.job.tables if set(table.feature_names()) <= wanted)


def _runs(
    args: argparse.Namespace, material: Material, jobs: dict[str, JobConfig], ids: dict[str, Ints]
) -> dict[str, list[Run]]:
    """One run a seed and variant: those that the folder has, and the others, each written down as it ends."""
    from monolith.datasets.collisions import Run
    from monolith.datasets.run_file import RunFile, key_of

    parts = material.split.train, material.split.test
    what = [[len(part), int(part.event_time_ms.sum()), float(part.labels.sum())] for part in parts]
    keys = {name: key_of(job, material.name, what, args.epochs, material.ordered) for name, job in jobs.items()}
    with RunFile(args.dir, Run) as file:
        known = {(run.key, run.seed): run for run in file.lines()}
        for seed, (variant, key) in product(range(args.seeds), keys.items()):
            if (key, seed) not in known:
                known[key, seed] = _one(args, material, variant, jobs[variant], (seed, key), ids)
                file.append(known[key, seed])
    return {variant: [known[key, seed] for seed in range(args.seeds)] for variant, key in keys.items()}


def _one(
    args: argparse.Namespace,
    material: Material,
    variant: str,
    job: JobConfig,
    known_as: tuple[int, str],
    ids: dict[str, Ints],
) -> Run:
    from monolith.commands.local_stream import Bar
    from monolith.datasets.collisions import Run, by_epoch, on_stream, sizes_of
    from monolith.datasets.online_runs import seeded

    seed, key = known_as
    job = seeded(job, seed)

    with Bar() as bar:

        def progress(what: str, done: int, total: int) -> None:
            bar(f"seed {seed}, {variant}: {what}", done, total)

        epochs, num_bytes = by_epoch(job, material.split, args.epochs, progress)
        stream = on_stream(job, material.split, progress) if material.ordered else None
    return Run(
        key=key,
        data=material.name,
        variant=variant,
        seed=seed,
        samples=len(material.split.test),
        tables=sizes_of(job, ids),
        num_bytes=num_bytes,
        epochs=epochs,
        stream=stream,
    )


def _tell(args: argparse.Namespace, material: Material, runs: dict[str, list[Run]]) -> None:
    from monolith.datasets.collisions_table import as_dict, claims, plot, rates, table
    from monolith.offline.ran import how_it_ran

    print("\n".join(rates(runs)))
    print(f"\n{len(material.split.test):,} samples judged: AUC, mean ± standard deviation over {args.seeds} seeds")
    print("\n".join([*table(runs), "", *claims(runs)]))
    plot(runs, args.dir / "collisions.png", f"{material.name}, {material.job.model.kind}, {args.seeds} seeds")
    (args.dir / "collisions.json").write_text(json.dumps(how_it_ran() | as_dict(runs), indent=1) + "\n")
    print(f"written: {args.dir / 'collisions.png'}, {args.dir / 'collisions.json'}, {args.dir / 'runs.jsonl'}")
