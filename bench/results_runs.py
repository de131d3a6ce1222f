"""Sections of docs/results.md: online against batch, collisions, OptEmbed, tables with rows of their own for hot ids.

Each is made of what its benchmark left as JSON, kept in docs/results.json as a list of runs, a later one of the same
command in place of an earlier one.
"""

from __future__ import annotations

import json
import re
import shlex
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from monolith.datasets.online_claims import half_width

Report = dict[str, Any]
TITLES = {"auc": "AUC", "gauc": "GAUC", "lists": "in lists", "ranking": "apart"}
MOMENTS = {"first": "epoch 1", "best": "best epoch", "stream": "stream"}
SAID = {"higher": "holds", "lower": "the other way round", "open": "not carried", "too few seeds": "too few seeds"}


def bare(command: str) -> str:
    """A command without what is of one machine: folders of results, and the ways to others."""
    words = shlex.split(command)
    for option in ("--dir", "--json", "--from"):
        if option in words:
            del words[words.index(option) : words.index(option) + 2]
    return shlex.join(word.rsplit("/", 1)[-1] if word.startswith("/") else word for word in words)


def read_run(path: Path) -> Report:
    """What a benchmark left, as it is kept. Exits where it does not say how it ran."""
    try:
        run: Report = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise SystemExit(f"{path} cannot be read: {error}; run the benchmark first") from None
    if missing := {"command", "time", "machine"} - run.keys():
        raise SystemExit(
            f"{path} lacks {', '.join(sorted(missing))}: it is of an older version; run the benchmark again"
        )
    if isinstance(run["machine"], dict):
        versions = ", ".join(f"{name} {run['machine']['versions'].get(name, '-')}" for name in ("torch", "numpy"))
        line = "{processor}, {cores} cores; Python {python}, ".format(**run["machine"]) + versions
        run |= {"machine": line, "load": run["machine"]["load_1min"]}
    return {**run, "command": bare(run["command"])}


def read_folder(folder: Path, name: str, out: Path) -> Report:
    """The run in ``folder``, whose picture is copied, with fewer colours; of one without several intervals none."""
    run = read_run(folder / f"{name}.json")
    if name == "collisions" or several_intervals(run):
        words = re.sub(r"[^a-z0-9.]+", "-", run["command"].removeprefix("monolith bench "))[:80].strip("-")
        run["plot"] = f"results-{words}.png"
        small(folder / f"{name}.png", out / run["plot"])
    return run


def small(picture: Path, to: Path) -> None:
    """Copy a picture of lines with 48 colours, which takes a third of the bytes."""
    from PIL import Image

    Image.open(picture).convert("RGB").quantize(48).save(to, optimize=True)


def joined(runs: Sequence[Report], more: Sequence[Report]) -> list[Report]:
    """The last run of each command."""
    return list({run["command"]: run for run in [*runs, *more]}.values())


def several_intervals(run: Report) -> bool:
    """Whether an `online` run has more than the interval of every step."""
    return any(way.startswith("online1 1/") for way in run["ways"])


def how(run: Report) -> str:
    """Command, day, load."""
    load = f", load {run['load']:.0f}" if run.get("load") is not None else ""
    return f"`{run['command']}`, {run['time'][:10]}{load}"


def seeds(count: int) -> str:
    """A number of seeds in words."""
    return f"{count} seed{'s' * (count != 1)}"


def score(value: Mapping[str, Any] | None, sign: str = "") -> str:
    """Mean and standard deviation over seeds."""
    if value is None:
        return "-"
    return f"{value['mean']:{sign}.4f}" + ("" if value["sd"] is None else f" ± {value['sd']:.4f}")


def online(runs: Sequence[Report]) -> Iterator[str]:
    """What going on is worth in every run, then each run with several intervals of synchronisation."""
    if not runs:
        return
    yield "## Online against batch\n"
    yield "`monolith bench online` ([ways, measures and claims](online.md)). Behind a difference: whether the claim"
    yield "holds that going on is better, which seeds and parts of the judged samples must carry.\n"
    for number, run in enumerate(runs, 1):
        yield f"{number}. {run['data']}: {how(run)}; {seeds(len(run['seeds']))}, {run['samples']:,} samples judged"
    for gain in ("online1 - frozen1", "warm - frozen"):
        yield f"\n### {gain}\n\n| run | data | {' | '.join(TITLES.values())} |\n|--:|---|{'---|' * len(TITLES)}"
        for number, run in enumerate(runs, 1):
            cells = " | ".join(gained(run["gains"].get(gain, {}).get(measure)) for measure in TITLES)
            yield f"| {number} | {run['data']} | {cells} |"
    for number, run in enumerate(runs, 1):
        if several_intervals(run):
            yield from intervals(number, run)
    yield ""


def gained(value: Mapping[str, Any] | None) -> str:
    """A difference and what is said of it."""
    return "-" if value is None else f"{score(value, '+')}, {SAID[value['verdict']]}"


def intervals(number: int, run: Report) -> Iterator[str]:
    """Every way of a run, and its claims as they were printed."""
    yield f"\n### Run {number}: {run['data']}\n\n| way | synchronised | {' | '.join(TITLES.values())} |"
    yield f"|---|---|{'---|' * len(TITLES)}"
    for way, values in run["ways"].items():
        cells = " | ".join(score(values[measure]) for measure in TITLES)
        yield f"| `{way}` | {every(way, run)} | {cells} |"
    yield ""
    yield from (f"    {line}" for line in run["claims"])
    yield f"\n![AUC along the judged part, and the gain by synchronisations, {run['data']}]({run['plot']})"


def every(way: str, run: Report) -> str:
    """How often serving is synchronised, in event time."""
    name, _, parts = way.partition(" 1/")
    if name not in ("online1", "warm"):
        return "-"
    hours = run["hours"] / int(parts or run["steps"])
    if hours >= 48:
        return f"every {hours / 24:.1f} days"
    return f"every {hours:.1f} h" if hours >= 1 else f"every {hours * 60:.1f} min"


def collisions(runs: Sequence[Report]) -> Iterator[str]:
    """Each run: ids lost, and AUC by variant."""
    if not runs:
        return
    yield "## What sharing rows costs\n"
    yield "`monolith bench collisions` ([variants and claims](collisions.md)). In brackets: by how much"
    yield "collisionless is above, and whether that claim holds."
    for run in runs:
        own = run["variants"]["collisionless"]["auc"]
        count = f"{seeds(len(run['seeds']))}, {run['samples']:,} samples judged"
        yield f"\n### Collisions: {run['data']}\n\n{how(run)}; {count}.\n"
        yield f"| variant | bytes | ids lost (expected) | {' | '.join(MOMENTS[moment] for moment in own)} |"
        yield f"|---|--:|---|{'---|' * len(own)}"
        for name, variant in run["variants"].items():
            cells = " | ".join(above(variant, own, moment) for moment in own)
            yield f"| {name} | {variant['bytes']:,} | {lost(variant)} | {cells} |"
        yield f"\n![AUC by epoch and along the stream, {run['data']}]({run['plot']})"
    yield ""


def lost(variant: Report) -> str:
    """The share of ids that lose their row, by table."""
    tables = {name: table for name, table in variant["tables"].items() if table["rows"] is not None}
    rates = (f"{name} {table['lost']:.2%} ({table['expected']:.2%})" for name, table in tables.items())
    return ", ".join(rates) or "-"


def above(variant: Report, own: Report, moment: str) -> str:
    """A variant's AUC, and by how much collisionless is above it."""
    value = variant["auc"][moment]
    if moment not in variant["verdicts"] or value is None or own[moment] is None:
        return score(value)
    return f"{score(value)} ({own[moment]['mean'] - value['mean']:+.4f}, {SAID[variant['verdicts'][moment]]})"


def optembed(runs: Sequence[Report]) -> Iterator[str]:
    """Each run of bench/optembed.py: a line a seed, and means."""
    if not runs:
        return
    yield "## OptEmbed\n"
    yield "A job fitted with all rows and columns, and what `monolith optembed` finds within a share of its bytes"
    yield "([stages](optembed.md)); AUC of the test part."
    for run in runs:
        yield f"\n{how(run)}.\n\n| seed | full: AUC | bytes | found: AUC | bytes | AUC | bytes | kept: rows x columns |"
        yield "|--:|--:|--:|--:|--:|--:|--:|---|"
        for one in run["results"]:
            numbers = f"{one['full_auc']:.4f} | {one['full_bytes']:,} | {one['auc']:.4f} | {one['bytes']:,}"
            change = f"{one['auc'] - one['full_auc']:+.4f} | {one['bytes'] / one['full_bytes'] - 1:+.1%}"
            yield f"| {one['seed']} | {numbers} | {change} | {kept(one['outcome']['tables'])} |"
        yield ""
        for share in dict.fromkeys(one["share"] for one in run["results"]):
            yield mean_of([one for one in run["results"] if one["share"] == share], share)
    yield ""


def kept(tables: Sequence[Report]) -> str:
    """Of the two tables with the most rows."""
    largest = sorted(tables, key=lambda table: -int(table["full_rows"]))[:2]
    return ", ".join(f"{t['name']} {t['rows'] / t['full_rows']:.0%} x {t['width']}" for t in largest)


def mean_of(results: Sequence[Report], share: float) -> str:
    """What a share of the bytes costs, in the mean over seeds."""
    changes = [one["auc"] - one["full_auc"] for one in results]
    off = statistics.fmean(1 - one["bytes"] / one["full_bytes"] for one in results)
    spread = f" ± {statistics.stdev(changes):.4f}" if len(changes) > 1 else ""
    change = f"AUC {statistics.fmean(changes):+.4f}{spread}, {seeds(len(changes))}"
    return f"Within {share:.0%} of the bytes: {off:.1%} off, {change}."


def cafe(runs: Sequence[Report]) -> Iterator[str]:
    """Each run of bench/cafe.py."""
    if not runs:
        return
    yield "## Rows of their own for hot ids, on a drifting stream\n"
    yield "DeepFM online on the synthetic stream, every batch scored before it is learnt from, `hashed` and"
    yield "[`cafe`](embeddings.md#rows-of-their-own-for-hot-ids) tables of the same bytes; AUC of the second half."
    for run in runs:
        first = next(iter(run["shares"].values()))
        yield f"\n{how(run)}. Seeds {', '.join(str(one.get('seed', place)) for place, one in enumerate(first))}.\n"
        yield "| rows, of the ids | collisionless | hashed | cafe | cafe - hashed | from | to | ahead | mean, 95 % |"
        yield "|--:|--:|--:|--:|--:|--:|--:|--:|---|"
        for share, found in run["shares"].items():
            means = (statistics.fmean(one[kind] for one in found) for kind in ("collisionless", "hashed", "cafe"))
            margins = [one["margin"] for one in found]
            sd = statistics.stdev(margins) if len(margins) > 1 else None
            margin = score({"mean": statistics.fmean(margins), "sd": sd}, "+")
            ends = f"{min(margins):+.4f} | {max(margins):+.4f} | {sum(m > 0 for m in margins)} of {len(margins)}"
            ends += f" | {interval(margins)}"
            yield f"| {float(share):.1%} | {' | '.join(f'{mean:.4f}' for mean in means)} | {margin} | {ends} |"
    yield ""


def interval(values: Sequence[float]) -> str:
    """The 95 % interval of the mean over seeds."""
    if len(values) < 2:
        return "-"
    middle, half = statistics.fmean(values), half_width(values)
    return f"{middle - half:+.4f} to {middle + half:+.4f}"
