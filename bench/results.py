"""The page of results, docs/results.md, and its plots, from what our benchmarks left.

    python bench/results.py [--ctr FOLDER ...] [--online FOLDER ...] [--collisions FOLDER ...]
                            [--optembed FILE ...] [--cafe FILE ...] [--speed FILE] [--out FOLDER]

--ctr, --online and --collisions are folders of `monolith bench ctr`, `bench online` and `bench collisions`; --optembed,
--cafe and --speed are what bench/optembed.py, bench/cafe.py and bench/offline.py wrote by --json. Cells and runs are
joined with those known. What the page is made of is kept beside it, in results.json; without options the page is made
of that again. Nothing on the page is typed by hand; baselines, which others measured, are in bench/baselines.json.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # not there under PYTHONSAFEPATH

from results_kinds import claim, level, rivals, same_bytes, searched, settings
from results_runs import bare, cafe, collisions, joined, online, optembed, read_folder, read_run

from monolith.errors import CorruptError
from monolith.offline.cells import OURS
from monolith.offline.report import Line, lines_of, plot, table
from monolith.offline.results import NAME, read_results

BENCH = Path(__file__).parent
DOCS = BENCH.parent / "docs"
SLACK = 0.001  # AUC that may be lacking to a baseline
RUNS = {"online": online, "collisions": collisions, "optembed": optembed, "cafe": cafe}
Report = dict[str, Any]


def main() -> None:
    """Read, keep what was read, write the page and its plots."""
    options = parse()
    kept = options.out / "results.json"
    report = json.loads(kept.read_text()) if kept.exists() else {"cells": [], "speed": None}
    rows = [*report["cells"], *(short(row) for folder in options.ctr for row in results_in(folder))]
    report["cells"] = newest(rows)
    if options.speed:
        report["speed"] = json.loads(options.speed.read_text())
        report["speed"]["command"] = bare(report["speed"]["command"])
    for name in RUNS:
        report[name] = joined(report.get(name, []), more(options, name))
    if not any(report[name] for name in ("cells", *RUNS)):
        raise SystemExit(f"nothing was measured: {kept} has no cell and no run, and no option names any")
    report["baselines"] = json.loads((BENCH / "baselines.json").read_text())
    kept.write_text(json.dumps(report, indent=0, allow_nan=False) + "\n")
    (options.out / "results.md").write_text(page(report))
    for data in plotted(report):
        plot([line for line in lines_of(report["cells"]) if line.data == data], options.out / f"results-{data}.svg")


def parse(words: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for option in ("--ctr", "--online", "--collisions", "--optembed", "--cafe"):
        parser.add_argument(option, type=Path, nargs="+", action="extend", default=[])
    parser.add_argument("--speed", type=Path)
    parser.add_argument("--out", type=Path, default=DOCS)
    return parser.parse_args(words)


def results_in(folder: Path) -> list[Report]:
    """The cells of a folder. Exits where there are none to be read."""
    try:
        return read_results(folder / NAME)
    except CorruptError as error:
        raise SystemExit(str(error)) from None


def short(row: Report) -> Report:
    """A cell as it is kept: the command without its folders, of the job what a person can read, and no NaN."""
    row = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in row.items()
    }
    job = json.loads(row["job"])
    table = {key: value for key, value in job["tables"][0].items() if key in ("dim", "optimizer", "initializer")}
    settings = {"model": job["model"], "table": table, "dense_optimizer": job["dense_optimizer"]}
    settings |= {"fit": {key: job["fit"][key] for key in ("epochs", "patience")}}
    settings |= {"batch_size": job["fit"]["batch_size"] or job["train"]["batch_size"]}
    return {**row, "command": bare(row["command"]), "job": json.dumps(settings)}


def newest(rows: Sequence[Report]) -> list[Report]:
    """Of cells that differ only by when they were fitted, and by which build, the last one."""
    names = ("data", "model", "kind", "budget", "trainer", "seed", "job")
    found = {tuple(row[name] for name in names): row for row in sorted(rows, key=lambda row: row["time"])}
    return list(found.values())


def more(options: argparse.Namespace, name: str) -> list[Report]:
    """The runs of one benchmark that the command line names."""
    paths: list[Path] = getattr(options, name)
    if name in ("online", "collisions"):
        return [read_folder(path, name, options.out) for path in paths]
    return [read_run(path) for path in paths]


def page(report: Report) -> str:
    """The whole Markdown page."""
    cells = report["cells"]
    scored = [row for row in cells if row["auc"] is not None]  # a test part of one kind of label has no AUC
    parts = [*head(report), *baselines(report | {"cells": scored}), *rivals(scored), *matrix(report)]
    parts += [*same_bytes(scored), *claim(scored), *searched(scored)]
    for name, section in RUNS.items():
        parts += section(report.get(name, []))
    return "\n".join([*parts, *speed(report["speed"]), *commands(cells)]) + "\n"


def head(report: Report) -> Iterator[str]:
    """What, when, where."""
    cells = report["cells"]
    ran = [*cells, *(run for name in RUNS for run in report.get(name, []))]
    times, loads = sorted(row["time"][:10] for row in ran), [row["load"] for row in cells]
    yield "# Results\n"
    yield "`python bench/results.py` writes this page from what `monolith bench ctr`, `bench online` and"
    yield "`bench collisions`, `bench/optembed.py`, `bench/cafe.py` and `bench/offline.py` left. All figures are in"
    yield f"`results.json`. Measured from {times[0]} to {times[-1]}. [What is measured](offline.md),"
    yield "[what the data sets are](datasets.md).\n"
    for machine in sorted({row["machine"] for row in ran}):
        yield f"- {machine}"
    yield "\nBehind ± is the standard deviation over seeds; seeds are 0, 1, ...\n"
    if loads:
        yield f"Programs that wanted a core as cells ended: {min(loads):.0f} to {max(loads):.0f}. Samples a second of"
        yield "cells are by wall time, so they say little where there were several.\n"


def baselines(report: Report) -> Iterator[str]:
    """Ours beside what others measured."""
    known = report["baselines"]
    found = [line for line in lines_of(report["cells"]) if line.trainer == OURS and line.kind == "collisionless"]
    found = [line for line in found if line.model in known["auc"].get(line.data, {}) and not own_settings(line)]
    if not found:
        return
    yield f"## Beside baselines\n\nBaselines: {known['source']}."
    yield f"Reached: test AUC of at least the baseline less {SLACK}.\n"
    yield "| data | model | test samples | baseline | test AUC | seeds | difference | reached |"
    yield "|---|---|--:|--:|--:|--:|--:|---|"
    for line in found:
        goal, area = known["auc"][line.data][line.model], line.mean("auc")
        reached = "yes" if area >= goal - SLACK else "no" + within(line, goal - SLACK - area)
        samples = line.rows[0]["test_samples"]
        numbers = f"{samples:,} | {goal:.3f} | {level(line.values('auc'))} | {len(line.rows)} | {area - goal:+.4f}"
        yield f"| {line.data} | {line.model} | {numbers} | {reached} |"
    yield ""


def within(line: Line, lacking: float) -> str:
    """Whether what is lacking is less than seeds differ by."""
    values = line.values("auc")
    return ", by less than the spread" if len(values) > 1 and lacking < statistics.stdev(values) else ""


def own_settings(line: Line) -> bool:
    """Whether the cells were run with settings of their own."""
    return bool(settings(line.rows[0]))


def matrix(report: Report) -> Iterator[str]:
    """Every combination."""
    if not report["cells"]:
        return
    yield "## Every cell\n"
    yield from table(lines_of(report["cells"]))
    yield ""
    for data in plotted(report):
        yield f"![AUC by bytes, {data}](results-{data}.svg)\n"


def plotted(report: Report) -> list[str]:
    """Data sets with more than one size."""
    sizes: dict[str, set[object]] = {}
    for row in report["cells"]:
        sizes.setdefault(row["data"], set()).add((row["kind"], row["budget"]))
    return sorted(data for data, several in sizes.items() if len(several) > 2)


def speed(report: Report | None) -> Iterator[str]:
    """Samples a second of CPU time."""
    if report is None:
        return
    shape = f"{report['rows']:,} samples of {report['features']} features ({report['data']})"
    yield f"## Speed of training\n\n`{report['command']}`, measured on {report['date']}: {shape}, one thread, samples"
    yield "a second of CPU time, contenders in turns in one process; behind a ratio its quartiles.\n"
    yield "| model | monolith | deepctr-torch | ratio | plain torch, sparse gradients | ratio |"
    yield "|---|--:|--:|--:|--:|--:|"
    for model, found in report["models"].items():
        cells = [f"{found['rates'][OURS]:,.0f}"]
        for name in ("deepctr-torch", "plain torch"):
            low, middle, high = found["ratios"][name]
            cells += [f"{found['rates'][name]:,.0f}", f"{middle:.2f} ({low:.2f} to {high:.2f})"]
        yield f"| {model} | {' | '.join(cells)} |"
    yield ""


def commands(cells: Sequence[Report]) -> Iterator[str]:
    """What was typed."""
    if not cells:
        return
    yield "## Commands\n"
    for command in dict.fromkeys(row["command"] for row in cells):
        yield f"    {command}"


if __name__ == "__main__":
    main()
