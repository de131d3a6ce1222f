"""Which column says when, which what was done, and which item it was about: by name and by value, or as options say."""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from monolith.commands.init_columns import is_quantity
from monolith.commands.init_sample import Sample
from monolith.config.document import nearest
from monolith.echo import shown
from monolith.errors import ConfigError

TimeUnit = Literal["s", "ms", "us", "ns"]

_TIMES = re.compile(
    r"^(event_?time(_ms)?|timestamp(_ms)?|time(_ms)?|ts|event_?ts|datetime|date|day|created(_at)?|occurred(_at)?|at|"
    r"when|unix_?time|.*_(time|ts|timestamp|at|date))$",
    re.IGNORECASE,
)
_BEST_TIMES = re.compile(r"^(event_?time|timestamp|time|ts|event_?ts|datetime)(_ms)?$", re.IGNORECASE)
_LABELS = re.compile(
    r"^(is_|has_|did_)?(label|labels|target|y|click|clicked|clk|like|liked|conversion|converted|purchase|purchased|buy|"
    r"bought|install|installed|watched|response|responded|outcome|play|played|order|ordered|like_flag)s?$",
    re.IGNORECASE,
)
_SCORES = re.compile(r"^(rating|ratings|stars|score|watch_time|dwell(_time)?|reward)$", re.IGNORECASE)
_ITEMS = re.compile(
    r"^(item|movie|product|sku|ad|video|article|doc|document|news|song|track|book|post|content|creative|listing|"
    r"business|poi|offer)(_?id)?$|^target_item(_id)?$",
    re.IGNORECASE,
)
_USERS = re.compile(
    r"^(user|member|customer|visitor|account|client|viewer|buyer|person|profile)(_?id)?$|^uid$", re.IGNORECASE
)
_REQUESTS = re.compile(r"^(request|req|impression|imp|event|display|row)(_?(id|no|number))$", re.IGNORECASE)
_INDEX = re.compile(r"^(__index_level_\d+__|Unnamed: \d+|index|row)$")

_UNITS: tuple[tuple[float, TimeUnit], ...] = ((1e8, "s"), (1e11, "ms"), (1e14, "us"), (1e17, "ns"))  # from this size on
_MOST = {"s": 1e10, "ms": 1e14, "us": 1e17, "ns": 2.0**63}


@dataclass
class Roles:
    """Who is what among the columns of a Parquet file."""

    time: str
    unit: TimeUnit | None  # None: dates or timestamps
    is_own_clock: bool  # numbers that are no date in any unit: taken as seconds of a clock that began at 0
    item: str
    labels: dict[str, str]  # column -> loss
    user: str | None = None
    request: str | None = None
    left_out: dict[str, str] = field(default_factory=dict)  # column -> why it becomes no feature


def roles_of(
    sample: Sample, *, time: str | None, unit: TimeUnit | None, labels: Sequence[str], item: str | None
) -> Roles:
    """The roles, options first. Raises ConfigError that names the columns there are, where a role has none."""
    for name in (time, item, *labels):
        _check_there(sample, name)
    time = _usable_time(sample, time) if time else _time(sample)
    _check_apart(sample, time, labels, item)
    found, is_own_clock = (None, False) if time in sample.moments else _unit_of(sample.columns[time], unit)
    chosen = {name: _loss(sample, name) for name in labels} or _labels(sample, time)
    rest = [name for name in sample.columns if name not in {time, *chosen}]
    item = item or next((name for name in rest if _ITEMS.match(name)), None)
    roles = Roles(time, found, is_own_clock, item or "", chosen)
    roles.user = next((name for name in rest if _USERS.match(name)), None)
    roles.request = next((name for name in rest if _REQUESTS.match(name) and _names_requests(sample, name)), None)
    for name in rest:
        if why := _why_no_feature(sample, name, roles):
            roles.left_out[name] = why
    roles.item = item or _most_different(sample, [n for n in rest if n not in roles.left_out]) or time
    return roles


def unit_of(times: Sequence[Any]) -> TimeUnit | None:
    """The unit in which most of ``times`` are dates of our time; None: in none."""
    numbers = [float(t) for t in times if _is_number(t)]
    middle = statistics.median(numbers) if numbers else 0.0
    for least, unit in _UNITS:
        if least <= middle < _MOST[unit]:
            return unit
    return None


def loss_of(values: Sequence[Any]) -> str | None:
    """The loss that fits labels of these ``values``; None where they are no numbers."""
    given = [v for v in values if v is not None and v == v]
    if not given or not all(isinstance(v, bool | int | float) for v in given):
        return None
    return "log" if set(given) <= {0, 1} else "squared"


def _check_there(sample: Sample, name: str | None) -> None:
    if name is None or name in sample.columns:
        return
    if name in sample.unusable:
        raise ConfigError(f"{sample.url}: the column {name!r} is of type {sample.unusable[name]}, which cannot be used")
    raise ConfigError(
        f"{sample.url} has no column {name!r}{nearest(name, list(sample.columns))}; it has {_listed(sample)}"
    )


def _usable_time(sample: Sample, name: str) -> str:
    wrong = next((v for v in sample.columns[name] if v is not None and not _is_number(v)), None)
    if wrong is not None:
        raise ConfigError(
            f"{sample.url}: the column {name!r} is no time: a date, a timestamp or a number, but it has {shown(wrong)}"
        )
    return name


def _check_apart(sample: Sample, time: str, labels: Sequence[str], item: str | None) -> None:
    for label in labels:
        if label in (time, item):
            role = "time" if label == time else "item"
            raise ConfigError(f"{sample.url}: the column {label!r} is the {role}, so it cannot be the label too")
    bag = next((v for v in sample.columns.get(item or "", ()) if isinstance(v, list)), None)
    if bag is not None:
        raise ConfigError(f"{sample.url}: the column {item!r} is no item: one id a row, but it has {shown(bag)}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _time(sample: Sample) -> str:
    ranks = {name: rank for name in sample.columns if (rank := _time_rank(sample, name)) > 0}
    if ranks:
        return max(ranks, key=lambda name: ranks[name])  # the first of the best
    raise ConfigError(
        f"{sample.url}: no column looks like a time (a date or timestamp, or a number called time, ts, ...); "
        f"name it by --time COLUMN. There are {_listed(sample)}"
    )


def _time_rank(sample: Sample, name: str) -> int:
    """How much the column looks like the event time; 0: not at all."""
    is_moment, is_named = name in sample.moments, bool(_TIMES.match(name))
    if not (is_moment or is_named) or not _can_be_time(sample, name):
        return 0
    is_of_today = unit_of(sample.columns[name]) is not None
    return 1 + 8 * is_of_today + 4 * bool(_BEST_TIMES.match(name)) + 2 * is_moment + is_named


def _can_be_time(sample: Sample, name: str) -> bool:
    values = [v for v in sample.columns[name] if v is not None]
    return bool(values) and all(_is_number(v) and v >= 0 for v in values)


def _unit_of(times: Sequence[Any], given: TimeUnit | None) -> tuple[TimeUnit, bool]:
    found = given or unit_of(times)
    return (found, False) if found is not None else ("s", True)


def _labels(sample: Sample, time: str) -> dict[str, str]:
    losses = {n: loss_of(v) for n, v in sample.columns.items() if n != time and n not in sample.moments}
    named = {n: loss for n, loss in losses.items() if loss == "log" and _LABELS.match(n)}
    if named:
        return dict.fromkeys(named, "log")
    scores = [n for n, loss in losses.items() if loss is not None and _SCORES.match(n)]
    if scores:
        return {scores[0]: losses[scores[0]] or "squared"}
    binary = [n for n, loss in losses.items() if loss == "log" and len({*sample.columns[n]} - {None}) == 2]
    if len(binary) == 1:
        return {binary[0]: "log"}
    what = f"several columns hold 0 and 1 ({', '.join(binary)})" if binary else "no column looks like a label"
    raise ConfigError(
        f"{sample.url}: {what} (0 and 1, or true and false, called label, click, ...; or a rating); name it by "
        f"--label COLUMN, several with commas. There are {_listed(sample)}"
    )


def _loss(sample: Sample, name: str) -> str:
    loss = loss_of(sample.columns[name])
    if loss is None:
        example = next((v for v in sample.columns[name] if v is not None), None)
        raise ConfigError(
            f"{sample.url}: the column {name!r} is no label: a number or a boolean, but it has {shown(example)}"
        )
    return loss


def _why_no_feature(sample: Sample, name: str, roles: Roles) -> str:
    if name in sample.moments:
        return "a second time column"
    if _INDEX.match(name):
        return "a row number"
    if name == roles.request:
        return "the request id"
    if name not in (roles.item, roles.user) and _is_unlike(sample, name) and _holds_ids(sample, name):
        return "another value in every row, of which nothing can be learnt"
    return ""


def _names_requests(sample: Sample, name: str) -> bool:
    """Whether the column has so many different values that each can be one request, of some rows."""
    return _holds_ids(sample, name) and len(set(sample.columns[name])) > sample.rows / 50


def _is_unlike(sample: Sample, name: str) -> bool:
    """Whether nearly every row has a value of its own."""
    values = [v for v in sample.columns[name] if v is not None and not isinstance(v, list)]
    return len(values) >= 100 and len(set(values)) > 0.95 * len(values)


def _holds_ids(sample: Sample, name: str) -> bool:
    given = [v for v in sample.columns[name] if v is not None]
    if all(isinstance(v, int) for v in given):
        return not is_quantity(name, given, len(set(given)))
    return all(isinstance(v, int | str) for v in given)


def _most_different(sample: Sample, names: Sequence[str]) -> str | None:
    """The column of ids with the most different values: what a sample is about, where no name says so."""
    ids = [n for n in names if _holds_ids(sample, n)]
    return max(ids, key=lambda n: len(set(sample.columns[n])), default=None)


def _listed(sample: Sample) -> str:
    names = list(sample.columns) + list(sample.unusable)
    return ", ".join(names[:40]) + (f" and {len(names) - 40} more" if len(names) > 40 else "")


def is_user(name: str) -> bool:
    """Whether a column of this name says who."""
    return bool(_USERS.match(name))
