"""MovieLens 100K, 1M and 25M: a rating is a sample, its label whether it is high, of a user and a movie."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from monolith.datasets.sets.delimited import Format, blocks
from monolith.datasets.sets.description import LABEL, START_MS, TIME
from monolith.datasets.sets.lines import WHOLE, Lines, cell

ROWS = 65_536
_USER_MS = 2_000_000  # more than there are ratings in ml-1m
_LAST_USER = 6_041

Split = Callable[[str], list[str]]  # a line into cells
_USERS = {
    "dat": ("user_id", "gender", "age", "occupation", "zip"),
    "tsv": ("user_id", "age", "gender", "occupation", "zip"),
}
_MOVIES = {"dat": ("movie_id", "title", "genres"), "tsv": ("movie_id", "title", "year", "genres")}


@dataclass(frozen=True)
class Rule:
    """Which ratings are positive, which are no sample, and what is known of users and movies."""

    liked: float = 4.0
    dropped: tuple[float, ...] = ()
    by_arrival: bool = False  # times are users by descending id, each with all ratings
    user: Sequence[str] = ("gender", "age", "occupation", "zip")
    movie: Sequence[str] = ("genres",)


class Known:
    """Columns by an id."""

    def __init__(self, ids: Any, columns: dict[str, Any]) -> None:
        order = np.argsort(ids, kind="stable")
        self._ids = ids[order]
        self._columns = {name: column.take(pa.array(order)) for name, column in columns.items()}

    def of(self, ids: Any) -> dict[str, Any]:
        """The columns of ``ids`` (n,); nulls for ids of which nothing is known."""
        if not len(self._ids):
            return {name: pa.nulls(len(ids), column.type) for name, column in self._columns.items()}
        places = np.minimum(np.searchsorted(self._ids, ids), len(self._ids) - 1)
        taken = pa.array(places, mask=self._ids[places] != ids)
        return {name: column.take(taken) for name, column in self._columns.items()}


def from_parquet(folder: Path, lines: Lines, *, rule: Rule) -> Iterator[pa.Table]:
    """``ratings.parquet``, ``users.parquet`` and ``movies.parquet``; times are there or not."""
    users = _known(pq.read_table(folder / "users.parquet"), "user_id", rule.user)
    movies = _known(pq.read_table(folder / "movies.parquet"), "movie_id", rule.movie)
    first = 0
    for batch in pq.ParquetFile(folder / "ratings.parquet").iter_batches(ROWS):
        ratings = pa.table({name: batch.column(name).cast(pa.int64()) for name in batch.schema.names})
        lines.take(len(ratings))
        yield _samples(ratings, first, (users, movies), rule)
        first += len(ratings)


def from_text(folder: Path, lines: Lines, *, rule: Rule, suffix: str) -> Iterator[pa.Table]:
    """The owner's ``ratings``, ``users`` and ``movies`` with ``::`` (``suffix`` dat), or those of `monolith data get`
    with tabs (tsv).
    """
    split: Split = (lambda line: line.split("::")) if suffix == "dat" else (lambda line: line.split("\t"))
    users = _known(_small(folder / f"users.{suffix}", split, _USERS[suffix], lines), "user_id", rule.user)
    movies = _known(_small(folder / f"movies.{suffix}", split, _MOVIES[suffix], lines), "movie_id", rule.movie)
    first = 0
    for ratings in _ratings(folder / f"ratings.{suffix}", split, lines):
        yield _samples(ratings, first, (users, movies), rule)
        first += len(ratings)


def from_csv(folder: Path, lines: Lines, *, rule: Rule) -> Iterator[pa.Table]:
    """``ratings.csv`` and ``movies.csv``, as MovieLens 25M has them."""
    form = Format(("movieId", "genres"), quoted=True)
    parts = [
        block.table({"movie_id": block.integers("movieId", required=True), "genres": block.texts("genres")})
        for block in blocks(folder / "movies.csv", form, lines)
    ]
    empty = pa.table({"movie_id": pa.array([], pa.int64()), "genres": pa.array([], pa.string())})
    movies = _known(pa.concat_tables([empty, *parts]), "movie_id", rule.movie)
    first = 0
    for block in blocks(folder / "ratings.csv", Format(("userId", "movieId", "rating", "timestamp")), lines):
        columns = {
            "user_id": block.integers("userId", required=True),
            "movie_id": block.integers("movieId", required=True),
            "rating": block.floats("rating", required=True),
            "timestamp": block.integers("timestamp", required=True),
        }
        ratings = block.table(columns)
        yield _samples(ratings, first, (Known(np.zeros(0, np.int64), {}), movies), rule)
        first += len(ratings)


def _samples(ratings: pa.Table, first: int, known: tuple[Known, Known], rule: Rule) -> pa.Table:
    """Ratings, of which the first is number ``first``, as samples."""
    user, movie = (ratings[name].to_numpy() for name in ("user_id", "movie_id"))
    rating, rows = ratings["rating"].to_numpy(), np.arange(first, first + len(ratings))
    if rule.by_arrival:
        times = START_MS + (_LAST_USER - user) * _USER_MS + rows
    else:
        times = ratings["timestamp"].to_numpy() * 1000 if "timestamp" in ratings.schema.names else START_MS + rows
    users, movies = known[0].of(user), known[1].of(movie)
    samples = pa.table(
        {LABEL: (rating >= rule.liked).astype(np.int8), TIME: times, "user": user, "movie": movie, **users, **movies}
    )
    return samples.filter(pa.array(~np.isin(rating, rule.dropped))) if rule.dropped else samples


def _known(table: pa.Table, key: str, names: Sequence[str]) -> Known:
    columns = {}
    for name in names:
        column = table[name].combine_chunks()
        columns[name] = column.cast(pa.int64() if pa.types.is_integer(column.type) else pa.string())
    return Known(table[key].to_numpy().astype(np.int64), columns)


def _small(path: Path, split: Split, names: Sequence[str], lines: Lines) -> pa.Table:
    """A file of what is known of users or movies."""
    numbers = [name for name in names if name in ("user_id", "movie_id", "age")]
    numbers += [name for name in names if name == "occupation" and path.suffix == ".dat"]
    rows = []
    with path.open(encoding="utf-8" if path.suffix == ".tsv" else "latin-1", errors="replace") as file:
        for place, line in enumerate(file, start=1):
            cells = split(line.rstrip("\r\n"))
            if len(cells) == len(names) and all(_is_whole(cells[names.index(name)]) for name in numbers):
                rows.append(cells)
            else:
                said = f"{', '.join(names)}, with whole numbers for {', '.join(numbers)}"
                lines.reject(path, place, f"{cell(line.strip())} is not {said}")
    columns = {name: pa.array([row[i] for row in rows], pa.string()) for i, name in enumerate(names)}
    return pa.table({**columns, **{name: columns[name].cast(pa.int64()) for name in numbers}})


def _is_whole(text: str) -> bool:
    try:
        return int(text) in WHOLE
    except ValueError:
        return False


def _ratings(path: Path, split: Split, lines: Lines) -> Iterator[pa.Table]:
    """User, movie, rating and timestamp, `ROWS` lines at a time."""
    with path.open(encoding="latin-1") as file:
        numbered = enumerate(file, start=1)
        while some := list(islice(numbered, ROWS)):
            rows = [row for number, line in some if (row := _rating(path, number, line, split, lines)) is not None]
            lines.take(len(rows))
            columns = np.array(rows, np.int64).reshape(-1, 4).T
            yield pa.table(dict(zip(("user_id", "movie_id", "rating", "timestamp"), columns, strict=True)))


def _rating(path: Path, number: int, line: str, split: Split, lines: Lines) -> list[int] | None:
    cells = split(line.rstrip("\r\n"))
    try:
        row = [int(text) for text in cells]
    except ValueError:
        row = []
    if len(row) == 4 and all(number in WHOLE for number in row):
        return row
    lines.reject(path, number, f"{cell(line.strip())} is not user, movie, rating and timestamp, four whole numbers")
    return None
