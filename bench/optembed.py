"""What OptEmbed saves and what that costs: bytes of all tables, and AUC on samples that nothing has seen.

    python bench/optembed.py [--seeds N] [--share X ...] [--dim N] [--hidden N ...] [--lr X] [--l2 X] [--epochs N]
                             [--generations N] [--search-samples N] [--rows N] [--folder PATH] [--dir PATH]
                             [--json PATH]

MovieLens 1M, label rating >= 4, split at random 80/10/10 (one split, by --split), features user and movie, DeepFM. The
rival is the same job with collisionless tables of full dim, by `monolith fit`; ours is `monolith optembed` with --share
of the rival's bytes, and what is scored is its `serving.yaml`. Both are judged on the test part by `monolith evaluate`.
Bytes are `num_bytes()` of all tables: rows, the words beside them, and the index. What was done lies in --dir, and
another call goes on. Ratings are read from ../shared/data or --folder, which is not part of the project.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from machine import machine

from monolith.tables.kinds import open_to_read
from monolith.training.start import read_start

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
PARTS = {"train": (0.0, 0.8), "validation": (0.8, 0.9), "test": (0.9, 1.0)}


def main() -> None:
    """Print a line a seed and share, and the mean differences."""
    options = _options()
    ratings = Path(options.folder) / "ml1m" / "ratings.parquet"
    if not ratings.exists():
        print(f"skipped: it needs the MovieLens ratings in {ratings}, which cannot be redistributed")
        return
    words = machine()
    print(words)
    options.dir.mkdir(parents=True, exist_ok=True)
    _split(ratings, options)
    results = list(_results(options))
    for share in options.share:
        _summary([one for one in results if one["share"] == share], share)
    if options.json:
        options.json.write_text(json.dumps({"machine": words, "results": results}, indent=1, default=str) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--share", type=float, nargs="+", default=[0.5], help="of the rival's bytes")
    parser.add_argument("--dim", type=int, default=16)
    parser.add_argument("--hidden", type=int, nargs="+", default=[64, 32])
    parser.add_argument("--lr", type=float, default=0.003, help="Adam, of the rows")
    parser.add_argument("--l2", type=float, default=1e-3, help="model.embedding_l2")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--patience", type=int, default=1)
    parser.add_argument("--generations", type=int, default=8)
    parser.add_argument("--population", type=int, default=10)
    parser.add_argument("--search-samples", type=int, default=50_000)
    parser.add_argument("--split", type=int, default=0, help="seed of the split")
    parser.add_argument("--rows", type=int, help="only so many ratings, drawn at random")
    parser.add_argument("--folder", default=str(DATA), help="where ml1m/ratings.parquet is")
    parser.add_argument("--dir", type=Path, default=Path("build/bench-optembed"))
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def _split(ratings: Path, options: argparse.Namespace) -> None:
    """Write the three parts, if they are not there."""
    if (options.dir / "test.parquet").exists():
        return
    table = pq.read_table(ratings)
    order = np.random.default_rng(options.split).permutation(table.num_rows)[: options.rows]
    columns = {
        "user": table["user_id"].to_numpy().astype(np.int64),
        "item": table["movie_id"].to_numpy().astype(np.int64),
        "label": (table["rating"].to_numpy() >= 4).astype(np.int64),
    }
    for name, (begin, end) in PARTS.items():
        rows = order[int(len(order) * begin) : int(len(order) * end)]
        part = {key: values[rows] for key, values in columns.items()}
        part["t"] = 1_600_000_000_000 + np.arange(len(rows)) * 1000
        pq.write_table(pa.table(part), options.dir / f"{name}.parquet")


def _url(options: argparse.Namespace, part: str) -> str:
    path = (options.dir / f"{part}.parquet").absolute()
    return f"parquet://{path}?time=t&item=item&request=t&features=user,item&label=label"


def _job(options: argparse.Namespace, kind: str) -> Path:
    tables = [
        {"name": name, "dim": options.dim, "kind": kind, "optimizer": {"kind": "adam", "lr": options.lr}}
        for name in ("user", "item")
    ]
    validation = {"kind": "samples", "url": _url(options, "validation")}
    job: dict[str, Any] = {
        "name": "ml1m",
        "input": {"samples": _url(options, "train"), "follow": False},
        "tables": tables,
        "model": {"kind": "deepfm", "hidden": options.hidden, "embedding_l2": options.l2},
        "train": {"batch_size": 4096},
        "fit": {"epochs": options.epochs, "patience": options.patience, "validation": validation},
    }
    path: Path = options.dir / f"{kind}.yaml"
    path.write_text(yaml.safe_dump(job, sort_keys=False))
    return path


def _results(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    plain, ours = _job(options, "collisionless"), _job(options, "optembed")
    for seed in range(options.seeds):
        began = time.monotonic()
        state = (options.dir / f"full-{seed}").absolute()
        given = ["--set", f"seed={seed}", *_seeds(seed), "--set", f"state={state}"]
        if read_start(state) is None:
            _run("fit", plain, *given)
        full, full_bytes = _auc(options, plain, given), _bytes(state)
        for share in options.share:
            folder, most = options.dir / f"optembed-{seed}", int(full_bytes * share)
            asked = ["--bytes", most, "--dir", folder, "--generations", options.generations]
            asked += ["--population", options.population, "--search-samples", options.search_samples]
            _run("optembed", ours, *asked, "--set", f"seed={seed}", *_seeds(seed))
            own = folder / f"bytes-{most}"
            auc, taken = _auc(options, own / "serving.yaml", []), _bytes(own / "serving")
            found = json.loads((own / "outcome.json").read_bytes())
            one = {"seed": seed, "share": share, "full_auc": full, "auc": auc, "full_bytes": full_bytes, "bytes": taken}
            yield one | {"tables": found["tables"], "seconds": time.monotonic() - began}
            _tell(one, found)


def _seeds(seed: int) -> list[str]:
    return ["--set", f"tables.*.seed={seed}"]


def _tell(one: dict[str, Any], found: dict[str, Any]) -> None:
    tables = ", ".join(f"{t['name']} {t['rows']:,} of {t['full_rows']:,} x {t['width']}" for t in found["tables"])
    print(
        f"seed {one['seed']}, {one['share']:.0%}: AUC {one['full_auc']:.4f} of {one['full_bytes']:,} bytes, "
        f"{one['auc']:.4f} ({one['auc'] - one['full_auc']:+.4f}) of {one['bytes']:,} "
        f"({one['bytes'] / one['full_bytes'] - 1:+.1%}): {tables}",
        flush=True,
    )


def _summary(results: Sequence[dict[str, Any]], share: float) -> None:
    losses = np.array([one["auc"] - one["full_auc"] for one in results])
    saved = np.mean([1 - one["bytes"] / one["full_bytes"] for one in results])
    spread = losses.std(ddof=1) if len(losses) > 1 else float("nan")
    print(f"{share:.0%}: {saved:.1%} of bytes off, AUC {losses.mean():+.4f} (s.d. {spread:.4f}, {len(losses)} seeds)")


def _bytes(state: Path) -> int:
    """`num_bytes()` of all tables of the model that a state folder begins with."""
    start = read_start(state)
    assert start is not None
    return sum(open_to_read(start.snapshot.path / "tables" / name).num_bytes() for name in ("user", "item"))


def _auc(options: argparse.Namespace, job: Path, given: list[str]) -> float:
    told = _run("evaluate", job, "--on", _url(options, "test"), "--json", *given)
    return float(json.loads(told)["scores"]["label"]["auc"])


def _run(*words: object) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "monolith", *map(str, words)], stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout


if __name__ == "__main__":
    main()
