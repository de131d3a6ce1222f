"""Hotel lists of the RecSys Challenge 2019: every item of a list that ended in a click-out, and which one it was.

Read from impressions that somebody made of the session log, or from the log itself, by the same rules.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from monolith.datasets.sets.buckets import bucketed, quarter_octaves
from monolith.datasets.sets.delimited import Format, blocks
from monolith.datasets.sets.description import LABEL, LIST, TIME, Column
from monolith.datasets.sets.lines import Lines

FEATURES = (
    Column("user", "string"),
    Column("item"),
    Column("position"),
    Column("price"),
    Column("price_rank"),
    Column("platform", "string"),
    Column("city", "string"),
    Column("device", "string"),
    Column("last_item"),
    Column("is_last"),
)
_ROWS = 65_536
_DIGITS = 18  # of a number that 64 bits surely hold
_CLICK_OUT = "clickout item"
_LOG = ("user_id", "session_id", "timestamp", "step", "action_type", "reference", "platform", "city", "device",
        "impressions", "prices")  # fmt: skip


def from_impressions(folder: Path, lines: Lines) -> Iterator[pa.Table]:
    """``impressions.parquet``: rows of a list follow each other."""
    held: pa.Table | None = None  # of the list that the last batch broke off in
    for batch in pq.ParquetFile(folder / "impressions.parquet").iter_batches(_ROWS):
        rows = pa.Table.from_batches([batch])
        rows = rows if held is None else pa.concat_tables([held, rows])
        lists = rows["impression_id"].to_numpy()
        whole = int(np.searchsorted(lists, lists[-1]))  # lists are numbered in their order
        held = rows.slice(whole)
        if whole:
            yield _samples(rows.slice(0, whole), lines)
    if held is not None:
        yield _samples(held, lines)


def from_sessions(folder: Path, lines: Lines) -> Iterator[pa.Table]:
    """``train.csv``, the log: by user, session and step. Only the open session is held."""
    session = _Session(("", ""))
    rows: list[tuple[Any, ...]] = []
    lists = 0
    for block in blocks(folder / "train.csv", Format(_LOG, quoted=True), lines):
        numbers = {name: block.integers(name, required=True) for name in ("timestamp", "step")}
        log = block.table({**{name: block.texts(name) for name in _LOG}, **numbers})
        for row in zip(*(log[name].to_pylist() for name in _LOG), strict=True):
            action = _Action(*row)
            if (action.user_id, action.session_id) != session.key:
                session = _Session((action.user_id, action.session_id))
            try:
                shown = session.shown(action)
            except ValueError as error:
                lines.reject(folder / "train.csv", None, f"session {action.session_id}, step {action.step}: {error}")
                continue
            rows += [(lists, *one) for one in shown]
            lists += bool(shown)
        if len(rows) >= _ROWS:
            yield _of_rows(rows)
            rows = []
    if rows:
        yield _of_rows(rows)


class _Action(NamedTuple):
    """A line of the log."""

    user_id: str
    session_id: str
    timestamp: int
    step: int
    action_type: str | None
    reference: str | None
    platform: str | None
    city: str | None
    device: str | None
    impressions: str | None
    prices: str | None


class _Session:
    """The item that was touched last, in a step before the present one."""

    def __init__(self, key: tuple[str, str]) -> None:
        self.key = key
        self._last = -1

    def shown(self, action: _Action) -> list[tuple[Any, ...]]:
        """The samples of a click-out, in the order of `_COLUMNS`; none of any other action. Raises ValueError."""
        before = self._last
        item = action.reference if action.reference and _is_whole(action.reference) else None
        if item is not None and "item" in (action.action_type or ""):
            self._last = int(item)
        if action.action_type != _CLICK_OUT or not action.impressions or item is None:
            return []
        items, prices = action.impressions.split("|"), (action.prices or "").split("|")
        if len(items) != len(prices) or not all(map(_is_whole, items + prices)):
            raise ValueError(f"{len(items)} impressions and {len(prices)} prices, not as many numbers of both")
        about = (action.timestamp, action.user_id, action.platform, action.city, action.device, before)
        return [
            (int(one == item), int(one), int(price), place, *about)
            for place, (one, price) in enumerate(zip(items, prices, strict=True))
        ]


def _is_whole(text: str) -> bool:
    return text.isdecimal() and len(text) <= _DIGITS


_COLUMNS = ("impression_id", "label", "item_id", "price", "position", "timestamp", "user_id", "platform", "city",
            "device", "last_item")  # fmt: skip


def _of_rows(rows: list[tuple[Any, ...]]) -> pa.Table:
    return _samples(pa.table(dict(zip(_COLUMNS, map(list, zip(*rows, strict=True)), strict=True))), None)


def _samples(rows: pa.Table, lines: Lines | None) -> pa.Table:
    """Whole lists as samples."""
    if lines is not None:
        lines.take(len(rows))
    lists, price = rows["impression_id"].to_numpy(), rows["price"].to_numpy().astype(np.int64)
    item, last = (rows[name].to_numpy().astype(np.int64) for name in ("item_id", "last_item"))
    text = {name: pc.cast(rows[name], pa.string()) for name in ("user_id", "platform", "city", "device")}
    return pa.table(
        {
            LABEL: rows["label"].to_numpy().astype(np.int8),
            TIME: rows["timestamp"].to_numpy().astype(np.int64) * 1000,
            LIST: lists.astype(np.int64),
            "user": text["user_id"],
            "item": item,
            "position": rows["position"].to_numpy().astype(np.int64),
            "price": bucketed(rows["price"].combine_chunks(), quarter_octaves),
            "price_rank": _ranks(lists, price),
            **{name: text[name] for name in ("platform", "city", "device")},
            "last_item": last,
            "is_last": (item == last).astype(np.int64),
        }
    )


def _ranks(lists: Any, prices: Any) -> Any:
    """The place of each price in its list, from 0 for the lowest on; equal ones by their order in the list."""
    order = np.lexsort((np.arange(len(lists)), prices, lists))
    starts = np.flatnonzero(np.diff(lists[order], prepend=lists[order][:1] - 1))
    ranks = np.empty(len(lists), np.int64)
    ranks[order] = np.arange(len(lists)) - np.repeat(starts, np.diff(starts, append=len(lists)))
    return ranks
