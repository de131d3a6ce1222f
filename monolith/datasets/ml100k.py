"""MovieLens-100K as a stream: 943 users, 1,682 movies, 100,000 ratings from September 1997 to April 1998.

A rating is an impression at its second; one of 4 or 5 is followed by a ``like`` two seconds later, a lower one by
nothing. Order is by (time, user, movie), which does not depend on where the data came from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from monolith.datasets.impressions import Impression
from monolith.errors import CorruptError
from monolith.events import ActionEvent, FeatureEvent

RATINGS_SHA256 = "f4555b8e3a89b4068229ae5c8ca7eaa12c27fd3b0a38a2fbc0b58789d228438e"  # of `canonical_ratings`
LIKED = 4  # a rating from here on is a positive
LIKE_DELAY_MS = 2_000

RATINGS, USERS, MOVIES = "ratings.tsv", "users.tsv", "movies.tsv"


@dataclass(frozen=True, slots=True)
class Rating:
    """``timestamp`` is in seconds since the epoch, ``rating`` from 1 to 5."""

    user: int
    movie: int
    rating: int
    timestamp: int


@dataclass(frozen=True, slots=True)
class User:
    """Who rated; ``zip`` is text, some are Canadian."""

    user: int
    age: int
    gender: str
    occupation: str
    zip: str


@dataclass(frozen=True, slots=True)
class Movie:
    """What was rated; ``year`` is 0 where it is not known."""

    movie: int
    title: str
    year: int
    genres: tuple[str, ...]


@dataclass(frozen=True)
class MovieLens:
    """The whole set; ratings by (timestamp, user, movie)."""

    ratings: list[Rating]
    users: dict[int, User]
    movies: dict[int, Movie]

    def impressions(self) -> Iterator[Impression]:
        """Every rating in time order, with what is known of its user and movie."""
        for rating in self.ratings:
            yield _impression(rating, self.users[rating.user], self.movies[rating.movie])


def load(folder: Path) -> MovieLens:
    """The set that `save` wrote; raises `CorruptError` if the ratings' checksum does not match."""
    text = (folder / RATINGS).read_bytes()
    check_ratings(text, str(folder / RATINGS), f"delete {folder} and run `monolith data get ml-100k` again")
    ratings = [Rating(*map(int, line.split("\t"))) for line in text.decode().splitlines()]
    users = [_user(line.split("\t")) for line in (folder / USERS).read_text(encoding="utf-8").splitlines()]
    movies = [_movie(line.split("\t")) for line in (folder / MOVIES).read_text(encoding="utf-8").splitlines()]
    return MovieLens(ratings, {user.user: user for user in users}, {movie.movie: movie for movie in movies})


def save(data: MovieLens, folder: Path) -> None:
    """Write the set in its canonical form: one tab-separated line an element, sorted, no header."""
    (folder / RATINGS).write_bytes(canonical_ratings(data.ratings))
    users = [f"{u.user}\t{u.age}\t{u.gender}\t{u.occupation}\t{u.zip}\n" for u in data.users.values()]
    (folder / USERS).write_text("".join(users), encoding="utf-8")
    movies = [f"{m.movie}\t{m.title}\t{m.year}\t{'|'.join(m.genres)}\n" for m in data.movies.values()]
    (folder / MOVIES).write_text("".join(movies), encoding="utf-8")


def canonical_ratings(ratings: Iterable[Rating]) -> bytes:
    """``user movie rating timestamp`` lines by (timestamp, user, movie): equal for every origin of the data."""
    ordered = sorted(ratings, key=lambda r: (r.timestamp, r.user, r.movie))
    return "".join(f"{r.user}\t{r.movie}\t{r.rating}\t{r.timestamp}\n" for r in ordered).encode()


def check_ratings(canonical: bytes, source: str, advice: str) -> None:
    """Raise `CorruptError` unless these are the 100,000 ratings that the figures of this project are about."""
    digest = hashlib.sha256(canonical).hexdigest()
    if digest != RATINGS_SHA256:
        raise CorruptError(f"the ratings in {source} have SHA-256 {digest}, expected {RATINGS_SHA256}; {advice}")


def _impression(rating: Rating, user: User, movie: Movie) -> Impression:
    request_id, item_id = f"{rating.user}-{rating.timestamp}", str(rating.movie)
    shown_ms = rating.timestamp * 1000
    feature = FeatureEvent(
        request_id,
        item_id,
        shown_ms,
        {
            "user": user.user,
            "movie": movie.movie,
            "age": user.age,
            "gender": user.gender,
            "occupation": user.occupation,
            "zip": user.zip,
            "genres": list(movie.genres),
            "year": movie.year,
        },
    )
    liked = rating.rating >= LIKED
    return Impression(feature, ActionEvent(request_id, item_id, "like", shown_ms + LIKE_DELAY_MS) if liked else None)


def _user(fields: list[str]) -> User:
    return User(int(fields[0]), int(fields[1]), *fields[2:5])


def _movie(fields: list[str]) -> Movie:
    return Movie(int(fields[0]), fields[1], int(fields[2]), tuple(filter(None, fields[3].split("|"))))
