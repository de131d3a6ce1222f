"""What OptEmbed saves and what that costs: bytes of all tables, and AUC on samples that nothing has seen.

    python bench/optembed.py [--data NAME] [--from DIR] [--seeds N] [--share X ...] [--set a.b=c ...] [--generations N]
                             [--population N] [--search-samples N] [--dir PATH] [--json PATH]

A data set of `monolith data list`, prepared by `monolith data prepare`, whose job.yaml is the rival: collisionless
tables of full dim, fitted by `monolith fit`. Ours is the same job with ``tables.*.kind=optembed`` and --share of the
rival's bytes, by `monolith optembed`; what is scored is its `serving.yaml`. Both are judged on the test part by
`monolith evaluate`. Bytes are `num_bytes()` of all tables: rows, the words beside them, and the index. --set holds for
both. What was done lies in --dir, and another call goes on. The sets' files are read from ../shared/data or --from,
which are not part of the project.
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

sys.path.insert(0, str(Path(__file__).parent))  # not there under PYTHONSAFEPATH

from machine import machine, ran

from monolith.config import load_job
from monolith.tables.kinds import open_to_read
from monolith.training.start import read_start

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def main() -> None:
    """Print a line a seed and share, and the mean differences."""
    options = _options()
    source = options.source or DATA / options.data.replace("-", "")
    if not source.is_dir():
        print(f"skipped: it needs the files of {options.data} in {source}, which cannot be redistributed")
        return
    words = machine()
    print(words)
    prepared = options.dir / options.data
    if not (prepared / "about.json").exists():
        _run("data", "prepare", options.data, "--from", source, "--to", prepared.absolute())
    results = list(_results(options, prepared))
    for share in options.share:
        _summary([one for one in results if one["share"] == share], share)
    if options.json:
        options.json.write_text(json.dumps({**ran(words), "results": results}, indent=1, default=str) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="trivago")
    parser.add_argument("--from", dest="source", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--share", type=float, nargs="+", default=[0.5], help="of the rival's bytes")
    parser.add_argument("--set", action="append", default=[], metavar="a.b=c", help="of both jobs; repeatable")
    parser.add_argument("--generations", type=int, default=8)
    parser.add_argument("--population", type=int, default=10)
    parser.add_argument("--search-samples", type=int, default=50_000)
    parser.add_argument("--dir", type=Path, default=Path("build/bench-optembed"))
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def _results(options: argparse.Namespace, prepared: Path) -> Iterator[dict[str, Any]]:
    job = prepared / "job.yaml"
    for seed in range(options.seeds):
        began = time.monotonic()
        state = (options.dir / f"{options.data}-full-{seed}").absolute()
        own = [f"seed={seed}", f"tables.*.seed={seed}", *options.set]
        if read_start(state) is None:
            _run("fit", job, *_sets([*own, f"state={state}"]))
        full, full_bytes = _auc(job, prepared, [*own, f"state={state}"]), _bytes(state)
        for share in options.share:
            folder, most = options.dir / f"{options.data}-optembed-{seed}", int(full_bytes * share)
            asked = ["--bytes", most, "--dir", folder, "--generations", options.generations]
            asked += ["--population", options.population, "--search-samples", options.search_samples]
            _run("optembed", job, *asked, *_sets(["tables.*.kind=optembed", *own]))
            found = folder / f"bytes-{most}"
            auc, taken = _auc(found / "serving.yaml", prepared, []), _bytes(found / "serving")
            one = {"seed": seed, "share": share, "full_auc": full, "auc": auc, "full_bytes": full_bytes, "bytes": taken}
            outcome = json.loads((found / "outcome.json").read_bytes())
            _tell(one, outcome)
            yield one | {"outcome": outcome, "seconds": time.monotonic() - began}


def _tell(one: dict[str, Any], outcome: dict[str, Any]) -> None:
    tables = ", ".join(f"{t['name']} {t['rows']:,}/{t['full_rows']:,} x {t['width']}" for t in outcome["tables"])
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
    folders = sorted((start.snapshot.path / "tables").iterdir())
    return sum(open_to_read(folder).num_bytes() for folder in folders)


def _auc(job: Path, prepared: Path, sets: list[str]) -> float:
    samples = load_job(prepared / "job.yaml").input.samples
    assert samples is not None
    test = samples.replace("/train.parquet?", "/test.parquet?")
    told = json.loads(_run("evaluate", job, "--on", test, "--json", *_sets(sets)))
    return float(next(iter(told["scores"].values()))["auc"])


def _sets(options: Sequence[str]) -> list[str]:
    return [word for option in options for word in ("--set", option)]


def _run(*words: object) -> str:
    command = [sys.executable, "-m", "monolith", *map(str, words)]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


if __name__ == "__main__":
    main()
