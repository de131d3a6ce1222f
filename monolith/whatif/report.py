"""What a comparison found, as lines of text and as plain values for JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from monolith.whatif.comparison import Comparison
from monolith.whatif.settings import words_of
from monolith.whatif.shadow import BYTES, Outcome

_UNITS = ("B", "kB", "MB", "GB", "TB")
_LEGEND = (
    "rows: at the end, and at most on the way; kept: ids of the log that have one at the end.",
    "hits: look-ups that found a row; an event looks its ids up before its own sample is observed.",
    "admitted, removed: rows that came and went, each gone one a tombstone; an hour: of event time.",
    "bytes: of the job's own rows, as its table would report them; overhead: all beside values and state.",
)
_TOLD = (
    "rows",
    "free_rows",
    "tombstones",
    "row_limit",
    "observed",
    "admitted",
    "swept",
)  # elsewhere, or of no use to people


def lines(found: Comparison, policies: Sequence[str]) -> list[str]:
    """The whole report; ``policies``: the keys of the table that hold one. Columns of noughts are left out."""
    varied = list(found.outcomes[0].setting.words)
    fixed = [f"{key} {words_of(getattr(found.table, key))}" for key in policies if key not in varied]
    columns = [[key, *(outcome.setting.words[key] for outcome in found.outcomes)] for key in varied]
    columns += _figures(found)
    same = [f"the same for all: {', '.join(fixed)}"] if fixed else []
    return [*_heading(found), *same, "", *_aligned(columns, len(varied)), "", *_LEGEND]


def as_dict(found: Comparison) -> dict[str, Any]:
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


def hit_share(found: Comparison, outcome: Outcome) -> float:
    """Share of the look-ups that found a row."""
    return outcome.hits / found.lookups if found.lookups else 0.0


def human(count: float) -> str:
    """Bytes for people, in powers of 1000."""
    for unit in _UNITS[:-1]:
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} {_UNITS[-1]}"


def _figures(found: Comparison) -> list[list[str]]:
    """The columns of figures, each under its head."""
    stats = [outcome.stats for outcome in found.outcomes]
    columns = [
        ["rows", *(f"{each['rows']:,}" for each in stats)],
        ["at most", *(f"{outcome.peak_rows:,}" for outcome in found.outcomes)],
        ["kept", *(f"{_kept(found, outcome):.1%}" for outcome in found.outcomes)],
        ["hits", *(f"{hit_share(found, outcome):.2%}" for outcome in found.outcomes)],
        ["admitted", *(f"{each['admitted']:,}" for each in stats)],
        ["removed", *(f"{outcome.removed:,}" for outcome in found.outcomes)],
        [
            "an hour",
            *(
                f"{_an_hour(found, outcome):,.{1 if _an_hour(found, outcome) >= 10 else 3}f}"
                for outcome in found.outcomes
            ),
        ],
        ["bytes", *(human(outcome.bytes) for outcome in found.outcomes)],
        ["values", *(human(each["bytes_values"]) for each in stats)],
        ["state", *(human(each["bytes_state"]) for each in stats)],
        ["overhead", *(human(outcome.overhead) for outcome in found.outcomes)],
    ]
    for name in stats[0]:
        if name not in _TOLD and not name.startswith("bytes_") and any(each[name] for each in stats):
            columns.append([name.removeprefix("counter_"), *(f"{each[name]:,}" for each in stats)])
    return columns


def _outcome(found: Comparison, outcome: Outcome) -> dict[str, Any]:
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


def _heading(found: Comparison) -> list[str]:
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


def _optimizer(found: Comparison) -> str:
    table = found.table
    kinds = [words_of(part.optimizer) for part in table.slices] or [words_of(table.optimizer)]
    return " + ".join(kind.partition(":")[0] for kind in kinds)


def _kept(found: Comparison, outcome: Outcome) -> float:
    return outcome.live_rows / found.distinct_ids if found.distinct_ids else 0.0


def _an_hour(found: Comparison, outcome: Outcome) -> float:
    return outcome.removed / found.hours if found.hours else 0.0


def _aligned(columns: Sequence[Sequence[str]], words: int) -> list[str]:
    """Columns side by side; the first ``words`` of them, which are words, begin at their left edge."""
    padded = []
    for number, column in enumerate(columns):
        width = max(map(len, column))
        padded.append([cell.ljust(width) if number < words else cell.rjust(width) for cell in column])
    return ["  ".join(row).rstrip() for row in zip(*padded, strict=True)]
