"""Every figure about the table, in one go: docs/benchmarks.md, docs/benchmarks.json and docs/benchmarks.svg.

    python bench/report.py [--full] [--from PATH]

It runs bench/table.py, table_growth.py, table_memory.py and small_batch.py one after the other (some minutes; with
--full, everything they can measure) and writes what they measured. --from takes a benchmarks.json instead and writes
the page and the picture again. Only figures of a machine with nothing else to do are worth keeping: the page says how
busy it was.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # not there under PYTHONSAFEPATH

BENCH = Path(__file__).parent
DOCS = BENCH.parent / "docs"
TBES = ("FBGEMM TBE", "FBGEMM TBE, two")
FULL = {"table": ["--full"], "table_growth": ["--rows", "20000000"], "table_memory": [], "small_batch": []}
Report = dict[str, Any]


def main() -> None:
    """Measure, or read what was measured, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="every size that the benchmarks know")
    parser.add_argument("--from", dest="source", type=Path, help="a benchmarks.json, instead of measuring")
    options = parser.parse_args()
    report = json.loads(options.source.read_text()) if options.source else measured(options.full)
    (DOCS / "benchmarks.json").write_text(json.dumps(report, indent=1) + "\n")
    (DOCS / "benchmarks.md").write_text(page(report))
    picture(report, DOCS / "benchmarks.svg")


def measured(full: bool) -> Report:
    """What each benchmark wrote, by its name."""
    command = "python bench/report.py" + (" --full" if full else "")
    report: Report = {"command": command, "date": datetime.now(UTC).date().isoformat()}
    for name, flags in FULL.items():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "figures.json"
            command = [sys.executable, str(BENCH / f"{name}.py"), "--json", str(path), *(flags if full else [])]
            subprocess.run(command, check=True)
            report[name] = {key: value for key, value in json.loads(path.read_text()).items() if key != "json"}
    return report


def page(report: Report) -> str:
    """The whole Markdown page."""
    parts = (head(report), training(report["table"]), lookups(report["table"]), growth(report["table_growth"]))
    rest = (memory(report["table_memory"]), small_batches(report["small_batch"]))
    return "\n".join([*parts, *rest])


def head(report: Report) -> str:
    """Machine, date and command."""
    machine = report["table"]["machine"]
    loads = ", ".join(f"{report[name]['machine']['load_1min']:.1f}" for name in FULL if "machine" in report[name])
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return f"""# Benchmarks

`{report["command"]}` writes this page from what it measures; all figures are in `benchmarks.json`.
Measured on {report["date"]}: {machine["processor"]}, {machine["cores"]} cores, {machine["memory_gib"]} GiB, huge pages
`{machine["huge_pages"]}`; Python {machine["python"]}, {versions}.
Programs that wanted a core in the minute before each part: {loads}; with more than the cores, lines of 2 threads say
little, since threads that wait for each other wait for the others too. Every ratio is of runs that took turns in one
process; the range behind it is from the first to the third quartile.

![A training step beside its rivals](benchmarks.svg)
"""


def training(table: Report) -> str:
    """Training steps against FBGEMM, managed collision and the memory bound."""
    lines = [
        "## A training step\n",
        f"`python bench/table.py`: {table['ids']:,} ids a step, row-wise Adagrad, float32, milliseconds, "
        f"{table['repeats']} repeats; `module` is our\n`EmbeddingBagCollection` with autograd and Python; FBGEMM is "
        "the faster of its two codes. Ratios: the other's time to the module's.\n",
        "| rows | dim | ids | threads | module | table | FBGEMM | ratio | FBGEMM's kernel | bound | module / bound |",
        "|--:|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for case in table["cases"]:
        who = case["contenders"]
        tbe = min((who[name] for name in TBES), key=lambda each: each["step_ms"])
        low, high = tbe["ratio_quartiles"]
        times = [f"{who[name]['step_ms']:.1f}" for name in ("module", "table")]
        bound = who["memory bound"]
        cells = [f"{case['rows']:,}", case["dim"], case["spread"], case["threads"], *times, f"{tbe['step_ms']:.1f}"]
        cells += [f"{tbe['ratio']:.2f} ({low:.2f}-{high:.2f})", f"{who['FBGEMM TBE']['step_ms']:.1f}"]
        cells += [f"{bound['step_ms']:.1f}", f"{1 / bound['ratio']:.2f}"]
        lines.append(row(cells))
    lines += ["", *slow_rivals(table["cases"])]
    added = table["overhead_us"]
    lines.append(
        f"\nA step of 16 ids takes the module {added['module']:.0f} microseconds and the table {added['table']:.0f}: "
        f"torch and Python add {added['added']:.0f}.\n"
    )
    return "\n".join(lines)


def slow_rivals(cases: list[Report]) -> list[str]:
    """Managed collision and SparseAdam, where they ran."""
    lines = ["| rows | ids | rival | its median step | ratio | its mean step | ratio of means | its worst step |"]
    lines.append("|--:|---|---|--:|--:|--:|--:|--:|")
    for case in cases:
        for name in ("managed coll.", "torch SparseAdam"):
            if rival := case["contenders"].get(name):
                low, high = rival["ratio_quartiles"]
                ratio = f"{rival['ratio']:.1f} ({low:.1f}-{high:.1f})"
                cells = [f"{case['rows']:,}", case["spread"], name, f"{rival['step_ms']:.1f}", ratio]
                cells += [f"{rival['mean_step_ms']:.1f}", f"{rival['ratio_of_means']:.1f}"]
                lines.append(row([*cells, f"{rival['worst_step_ms']:.1f}"]))
    return lines


def lookups(table: Report) -> str:
    """Look-ups without training."""
    lines = ["## Look-ups only\n", "1 M rows of dim 16, million ids a second and thread, with quartiles.\n"]
    lines += ["| ids | threads | ours | FBGEMM (no ids, no hashing) |", "|---|--:|--:|--:|"]
    for case in table["lookups"]:
        rates = [f"{mid:.1f} ({low:.1f}-{high:.1f})" for low, mid, high in (case["ours"], case["FBGEMM TBE"])]
        lines.append(row([case["spread"], case["threads"], *rates]))
    return "\n".join([*lines, ""])


def growth(report: Report) -> str:
    """Worst steps while growing."""
    lines = [
        "## Growth\n",
        f"`python bench/table_growth.py --rows {report['rows']}`: from empty, {report['ids']:,} ids a step, half of "
        f"them new, {report['repeats']} repeats.\nThe rival, to {report['rival_rows']:,} rows, is a dict with "
        "arrays that double. `least`: of each step's least\ntime over the repeats, which leaves out what the "
        "machine did besides.\n",
        "| | median ms | worst ms | worst / median, range | least: p99 ms | worst ms | worst / median | processor's |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name, case in report["contenders"].items():
        middle = sorted(case["repeats"], key=lambda each: each["worst_over_median"])
        least, typical = case["least"], middle[len(middle) // 2]
        span = f"{middle[0]['worst_over_median']:.1f}-{middle[-1]['worst_over_median']:.1f}"
        cells = [name, f"{typical['median_ms']:.2f}", f"{typical['worst_ms']:.1f}", span, f"{least['p99_ms']:.2f}"]
        cells += [
            f"{least['worst_ms']:.1f}",
            f"{least['worst_over_median']:.1f}",
            f"{case['least_cpu']['worst_over_median']:.1f}",
        ]
        lines.append(row(cells))
    return "\n".join(
        [*lines, f"\nWorst to median, the rival's (at {report['rival_rows']:,} rows) to ours: {report['ratio']:.1f}.\n"]
    )


def memory(report: Report) -> str:
    """Bytes a row."""
    lines = [
        "## Memory\n",
        "`python bench/table_memory.py`: bytes a row beyond values and state, measured as resident memory in a "
        "process of its own.\n",
        "| rows | resident | worst while growing | peak | stats(): tail | index | scratch | stats() / resident, all |",
        "|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for case in report["growth"]:
        figures = [
            case["resident"],
            case["worst"],
            case["peak"],
            *(case["stats"][k] for k in ("tail", "index", "scratch")),
        ]
        lines.append(row([f"{case['rows']:,}", *(f"{each:.1f}" for each in figures), f"{case['agreement']:.3f}"]))
    for rival in report["rivals"]:
        lines.append(
            row(
                [
                    f"{rival['rows']:,}, {rival['name']}",
                    f"{rival['resident']:.1f}",
                    "",
                    f"{rival['peak']:.1f}",
                    *[""] * 4,
                ]
            )
        )
    ratios = ", ".join(f"{ratio:.2f}" for ratio in report["reuse"]["resident_to_first"])
    grown = ", ".join(f"{kind} {more:.1f}" for kind, more in report["reuse"]["grown"].items() if more >= 0.05)
    lines.append(
        f"\n{report['reuse']['rows']:,} rows that expire, are swept, and come again under other ids, three times: "
        f"resident memory to that of\nthe first filling {ratios}. Bytes a row that were added: {grown or 'none'}.\n"
    )
    return "\n".join(lines)


def small_batches(report: Report) -> str:
    """DeepFM on small batches."""
    lines = [
        "## Small batches\n",
        "`python bench/small_batch.py`: DeepFM over 26 features, samples a second, one thread.\n",
        "| batch | ours | SparseAdam | dense Adam | ours to the better | step, ms: tables | dense | Python, autograd |",
        "|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for case in report["cases"]:
        low, high = case["quartiles"]
        speeds = [f"{case['batch'] / case['seconds'][name]:,.0f}" for name in ("ours", "SparseAdam", "dense Adam")]
        parts = [f"{case['parts_ms'][part]:.2f}" for part in ("tables", "dense", "Python and autograd")]
        lines.append(row([case["batch"], *speeds, f"{case['ratio']:.2f} ({low:.2f}-{high:.2f})", *parts]))
    return "\n".join([*lines, ""])


def row(cells: list[Any]) -> str:
    """A line of a Markdown table."""
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def picture(report: Report, path: Path) -> None:
    """Bars of a step's time for each case; the same bytes for the same figures."""
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams["svg.hashsalt"] = "benchmarks"
    cases = report["table"]["cases"]
    figure = Figure(figsize=(10, 1 + 0.55 * len(cases)), layout="constrained")
    axes = figure.add_subplot()
    shown = {"memory bound": "C7", "module": "C0", "FBGEMM TBE, two": "C1", "FBGEMM TBE": "C3"}
    for number, (name, color) in enumerate(shown.items()):
        places = [case_number + 0.2 * (number - 1.5) for case_number in range(len(cases))]
        axes.barh(places, [case["contenders"][name]["step_ms"] for case in cases], 0.2, color=color, label=name)
    labels = [f"{c['rows'] / 1e6:g} M x {c['dim']}, {c['spread']}, {c['threads']} thread(s)" for c in cases]
    axes.set_yticks(range(len(cases)), labels)
    axes.invert_yaxis()
    axes.set(xscale="log", xlabel=f"milliseconds a training step of {report['table']['ids']:,} ids (logarithmic)")
    axes.legend(fontsize="small")
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
