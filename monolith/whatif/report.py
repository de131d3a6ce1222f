"""What a replay found, as lines of text and as plain values for JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from monolith.whatif.replay import Replay
from monolith.whatif.settings import words_of
from monolith.whatif.shadow import BYTES, Outcome

_UNITS = ("B", "kB", "MB", "GB", "TB")
_LEGEND = (
    "rows: at the end, and at most during the log. kept: ids of the log that have a row at the end.",
    "hits: look-ups that found a row; an event's ids are looked up before the tables are shown them.",
    "admitted, removed: rows that came and went; each removal is a tombstone for the store.",
    "bytes: of the job's own rows, as its table would report them; overhead: what finds and tends them.",
)
_COUNTERS = (("rejected", "rejected"), ("late", "late"), ("counters", "counters"), ("halvings", "counter_halvings"))


def lines(found: Replay, policies: Sequence[str]) -> list[str]:
    """The whole report; ``policies``: the keys of the table that hold one."""
    varied = list(found.outcomes[0].setting.words)
    fixed = ", ".join(f"{key} {words_of(getattr(found.table, key))}" for key in policies if key not in varied)
    rows = [
        [*varied, *_HEADS],
        *([*outcome.setting.words.values(), *_cells(found, outcome)] for outcome in _all(found)),
    ]
    return [*_heading(found), *([f"the same for all: {fixed}"] if fixed else []), "", *_aligned(rows, len(varied)), "",
            *_LEGEND]  # fmt: skip


def as_dict(found: Replay) -> dict[str, Any]:
    """Plain values for JSON."""
    return {
        "table": found.table.name,
        "features": found.table.feature_names(),
        "events": found.events,
        "samples": found.samples,
        "lookups": found.lookups,
        "distinct_ids": found.distinct_ids,
        "first_event_ms": found.first_ms if found.events else None,
        "last_event_ms": found.last_ms if found.events else None,
        "unused_records": found.unused,
        "settings": [_outcome(found, outcome) for outcome in found.outcomes],
    }


def hit_share(found: Replay, outcome: Outcome) -> float:
    """Share of the look-ups that found a row."""
    return outcome.hits / found.lookups if found.lookups else 0.0


def human(count: float) -> str:
    """Bytes for people, in powers of 1000."""
    for unit in _UNITS[:-1]:
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} {_UNITS[-1]}"


_HEADS = ("rows", "at most", "kept", "hits", "admitted", "removed", "an hour", "bytes", "values", "state", "overhead",
          *(head for head, _ in _COUNTERS))  # fmt: skip


def _all(found: Replay) -> list[Outcome]:
    return found.outcomes


def _cells(found: Replay, outcome: Outcome) -> list[str]:
    stats = outcome.stats
    counted = stats["bytes_values"] + stats["bytes_state"]
    return [
        f"{stats['rows']:,}",
        f"{outcome.peak_rows:,}",
        f"{_kept(found, outcome):.1%}",
        f"{hit_share(found, outcome):.2%}",
        f"{stats['admitted']:,}",
        f"{outcome.removed:,}",
        f"{_an_hour(found, outcome):,.1f}",
        human(outcome.bytes),
        human(stats["bytes_values"]),
        human(stats["bytes_state"]),
        human(outcome.bytes - counted),
        *(f"{stats[name]:,}" for _, name in _COUNTERS),
    ]


def _outcome(found: Replay, outcome: Outcome) -> dict[str, Any]:
    return {
        "setting": outcome.setting.words,
        "rows": outcome.stats["rows"],
        "live_rows": outcome.live_rows,
        "peak_rows": outcome.peak_rows,
        "kept_share": _kept(found, outcome),
        "hits": outcome.hits,
        "hit_share": hit_share(found, outcome),
        "admitted": outcome.stats["admitted"],
        "removed": outcome.removed,
        "removed_an_hour": _an_hour(found, outcome),
        "bytes": outcome.bytes,
        "bytes_by_kind": {kind.removeprefix("bytes_"): outcome.stats[kind] for kind in BYTES},
        "stats": {name: count for name, count in outcome.stats.items() if not name.startswith("bytes_")},
    }


def _heading(found: Replay) -> list[str]:
    table = found.table
    per = f", {found.samples:,} samples observed" if found.samples != found.events else ""
    text = [
        f"table {table.name} of dim {table.dim}, {_optimizer(found)}, read by {', '.join(table.feature_names())}",
        f"{found.events:,} events over {found.hours:,.1f} hours{per}; "
        f"{found.lookups:,} look-ups of {found.distinct_ids:,} ids",
    ]
    if found.unused:
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in found.unused.items())
        text.append(f"records that a job could not use: {reasons}")
    return text


def _optimizer(found: Replay) -> str:
    table = found.table
    kinds = [words_of(part.optimizer) for part in table.slices] or [words_of(table.optimizer)]
    return " + ".join(kind.partition(":")[0] for kind in kinds)


def _kept(found: Replay, outcome: Outcome) -> float:
    return outcome.live_rows / found.distinct_ids if found.distinct_ids else 0.0


def _an_hour(found: Replay, outcome: Outcome) -> float:
    return outcome.removed / found.hours if found.hours else 0.0


def _aligned(rows: Sequence[Sequence[str]], words: int) -> list[str]:
    """Columns side by side; the first ``words`` of them, which are words, begin at their left edge."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if number < words else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
