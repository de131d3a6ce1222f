"""``monolith bench ctr``: data sets x models x kinds of table x bytes x seeds, each fitted and judged; resumes."""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monolith.errors import ConfigError

if TYPE_CHECKING:
    from monolith.offline.cells import Cell, Prepared
    from monolith.offline.fit_cell import Fitted, Tell
    from monolith.offline.results import Results
    from monolith.offline.samples import Parts

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}


def add_parser(benches: Any) -> None:
    """Declare the bench."""
    ctr = benches.add_parser(
        "ctr",
        help="AUC, GAUC, log-loss, calibration, bytes and samples/s of models and kinds of table on prepared data",
        epilog="What is in DIR/results.parquet already is not fitted again. Lists are separated by commas.",
    )
    ctr.add_argument("--data", required=True, type=_words, help="prepared sets: names or folders (`monolith data`)")
    ctr.add_argument("--models", type=_words, default=["deepfm"], help="lr, fm, deepfm, widedeep, mlp, dcnv2")
    ctr.add_argument(
        "--kinds",
        type=_words,
        default=["collisionless"],
        help="collisionless, hashed, hashed-sqrt, hashed-equal, qr, cafe, unified, optembed",
    )
    ctr.add_argument(
        "--bytes", type=_sizes, default=[], metavar="N", help="of all tables together, at most: 64k,256k,1M"
    )
    ctr.add_argument("--seeds", type=int, default=3, metavar="N", help="how many, from 0 on (default: 3)")
    ctr.add_argument("--dim", type=int, default=16, help="width of the vectors (default: 16)")
    ctr.add_argument("--epochs", type=int, help="at most (default: 20; 60 of lr on less than 150,000 samples)")
    ctr.add_argument("--patience", type=int, default=2, help="epochs without a better AUC before it stops (default: 2)")
    ctr.add_argument("--batch", type=int, help="samples a step (default: 4096; 1024 of less than 150,000 samples)")
    ctr.add_argument("--set", action="append", default=[], metavar="a.b=c", help="override a setting of every job")
    ctr.add_argument("--against", choices=["deepctr"], help="the same models by deepctr-torch on the same samples too")
    ctr.add_argument("--dir", type=Path, default=Path("build/bench-ctr"), help="folder of results, table and plot")
    ctr.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Fit what is missing; print and write the table; draw the plot."""
    from monolith.growing import alone
    from monolith.offline.cells import DEEPCTR, OURS, Matrix, Prepared, Settings, cells_of, told_apart
    from monolith.offline.results import WRITES, Results

    for name, least in (("seeds", 1), ("dim", 1), ("epochs", 1), ("patience", 1), ("batch", 1)):
        if (value := getattr(args, name)) is not None and value < least:
            raise ConfigError(f"--{name} {value}: allowed is {least} or more")
    for name in ("data", "models", "kinds"):
        if not getattr(args, name):
            raise ConfigError(f"--{name} names nothing; give one or several, with commas")
    trainers = (OURS, DEEPCTR) if args.against else (OURS,)
    matrix = Matrix(args.models, _kinds(args.kinds), args.bytes, range(args.seeds), trainers)
    settings = Settings(args.dim, args.epochs, args.patience, args.batch, args.set)
    prepared = told_apart([Prepared(*_prepared(name)) for name in args.data])
    cells = [(one, cell) for one in prepared for cell in cells_of(one, matrix, settings)]
    if args.against:
        from monolith.offline.deepctr import imported

        imported()  # before any fit: whoever lacks it is told now
    with alone(args.dir, WRITES):
        results = Results(args.dir)
        missing = [(one, cell) for one, cell in cells if not results.has(cell)]
        print(f"{len(cells)} cells, {len(cells) - len(missing)} of them done before", flush=True)
        for number, (one, cell) in enumerate(missing, start=1):
            _fit(one, cell, results, f"{number}/{len(missing)}", args.dir / "optembed")
        _tell(args.dir, results, [cell for _, cell in cells])
    return 0


def _fit(prepared: Prepared, cell: Cell, results: Results, place: str, stages: Path) -> None:
    from monolith.commands.local_stream import Bar
    from monolith.offline.results import row_of
    from monolith.offline.samples import samples_of

    if (twin := results.twin(cell)) is not None:
        results.add(twin)
        print(f"{place}  {cell}: the same tables as a cell that is done", flush=True)
        return
    with Bar() as bar:

        def tell(what: str, done: int, total: int) -> None:
            bar.unit = "candidate" if what == "search" else "sample"
            bar(str(cell), done, total, what)

        parts = samples_of(prepared, cell.job, tell)
        fitted = _fitted(cell, parts, stages, tell)
    results.add(row_of(cell, fitted, prepared.about, shlex.join(["monolith", *sys.argv[1:]])))
    print(
        f"{place}  {cell}: AUC {fitted.test.auc:.4f}, GAUC {fitted.test.gauc:.4f}, log-loss {fitted.test.logloss:.4f}, "
        f"{fitted.bytes:,} bytes, {fitted.samples_s:,.0f} samples/s, epoch {fitted.best_epoch} of {fitted.epochs}",
        flush=True,
    )


def _fitted(cell: Cell, parts: Parts, stages: Path, tell: Tell) -> Fitted:
    from monolith.offline.cells import OURS
    from monolith.offline.fit_cell import fit_cell
    from monolith.offline.layout import SEARCHED

    if cell.trainer != OURS:
        from monolith.offline.deepctr import fit_rival

        return fit_rival(cell, parts, tell)
    if cell.kind == SEARCHED:
        from monolith.offline.optembed_cell import fit_optembed

        return fit_optembed(cell, parts, stages, tell)
    return fit_cell(cell, parts, tell)


def _tell(folder: Path, results: Results, cells: list[Cell]) -> None:
    from monolith.offline.report import lines_of, plot, table
    from monolith.offline.results import is_of

    lines = lines_of({**row, "data": cell.data} for cell in cells for row in results.rows if is_of(row, cell))
    text = table(lines)
    print("\n".join(text))
    (folder / "results.md").write_text("\n".join(text) + "\n")
    plot(lines, folder / "pareto.png")
    print(f"written: {results.path}, {folder / 'results.md'}, {folder / 'pareto.png'}")


def _prepared(name: str) -> Any:
    from monolith.datasets.sets.about import read_about
    from monolith.datasets.sets.registry import prepared_set

    folder = prepared_set(name)
    return read_about(folder), folder


def _kinds(kinds: list[str]) -> list[str]:
    from monolith.offline.layout import KINDS

    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise ConfigError(f"--kinds {unknown[0]}: allowed are {', '.join(KINDS)}")
    return kinds


def _words(text: str) -> list[str]:
    return list(dict.fromkeys(filter(None, text.split(","))))


def _sizes(text: str) -> list[int]:
    sizes = []
    for word in _words(text):
        match = re.fullmatch(r"(\d+(?:\.\d+)?)([kmg]?)b?", word.lower())
        if match is None or not float(match[1]):
            raise argparse.ArgumentTypeError(f"{word!r} is no size: write bytes, or 64k, 1.5M, 2G (powers of 1,000)")
        sizes.append(int(float(match[1]) * _UNITS[match[2]]))
    return sizes
