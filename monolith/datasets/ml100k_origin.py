"""Gets MovieLens-100K onto this machine: from its owner, or, where that cannot be reached, from the package index.

The index has it inside the package ``recbole``, a wheel of which is a zip file; it is asked through the user's own
pip, so mirrors and proxies set up there are used. Both origins give the same cached files, and the ratings are
checked against one SHA-256. Nothing is ever written into the checkout.
"""

from __future__ import annotations

import io
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path

from monolith.datasets import ml100k
from monolith.datasets.ml100k import Movie, MovieLens, Rating, User
from monolith.errors import UnavailableError

log = logging.getLogger(__name__)

OWNER_URL = "https://files.grouplens.org/datasets/movielens/ml-100k.zip"
INDEX_PACKAGE = "recbole==1.2.1"
TIMEOUT_S = 20.0

TERMS = """\
MovieLens 100K, by GroupLens Research, University of Minnesota. Research use only; acknowledge it in publications; do
not redistribute it, and do not use it commercially, without permission of GroupLens.
Cite: F. Maxwell Harper and Joseph A. Konstan. 2015. The MovieLens Datasets: History and Context. ACM Transactions on
Interactive Intelligent Systems 5, 4, Article 19. https://doi.org/10.1145/2827872
"""

GENRES = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy",
    "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip  # the columns of the owner's u.item, in order


def cache_folder() -> Path:
    """``$MONOLITH_DATA``, or ``~/.cache/monolith``."""
    return Path(os.environ.get("MONOLITH_DATA") or Path.home() / ".cache" / "monolith")


def get(folder: Path | None = None) -> tuple[Path, str]:
    """The folder that holds the data, fetched if it is not there, and where it came from.

    Raises `UnavailableError` where no origin can be reached, `CorruptError` where the ratings' checksum differs; the
    folder then stays as it was.
    """
    folder = folder or cache_folder() / "ml-100k"
    if (folder / ml100k.RATINGS).is_file():
        ml100k.load(folder)
        return folder, "already here, checksum matches"
    data, origin = _fetch()
    ml100k.check_ratings(
        ml100k.canonical_ratings(data.ratings),
        origin,
        "the origin changed or the download was altered; nothing is kept",
    )
    _keep(data, folder)
    return folder, f"from {origin}, checksum matches"


def _fetch() -> tuple[MovieLens, str]:
    origins: list[tuple[str, Callable[[], MovieLens]]] = [
        (OWNER_URL, from_owner),
        (f"the package {INDEX_PACKAGE} (pip)", from_index),
    ]
    failures = []
    for name, fetch in origins:
        try:
            return fetch(), name
        except (OSError, zipfile.BadZipFile, KeyError, subprocess.SubprocessError) as error:
            log.info("ml-100k: origin=%s failed: %s", name, error)
            failures.append(f"{name}: {type(error).__name__}: {error}")
    raise UnavailableError(
        "ml-100k cannot be had from any origin. "
        + "; ".join(failures)
        + ". Check the network or pip's settings, or copy a folder that `monolith data get ml-100k` "
        f"wrote elsewhere and name its parent by MONOLITH_DATA (now {cache_folder()})."
    )


def from_owner() -> MovieLens:
    """The set from the owner's site."""
    with urllib.request.urlopen(OWNER_URL, timeout=TIMEOUT_S) as answer:
        return parse_owner(zipfile.ZipFile(io.BytesIO(answer.read())))


def from_index() -> MovieLens:
    """The set out of the ``recbole`` wheel, which pip downloads and which is not installed."""
    with tempfile.TemporaryDirectory(prefix="monolith-") as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, INDEX_PACKAGE]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode != 0 or not wheels:
            raise OSError(f"pip download failed: {done.stderr.strip()[-300:] or 'no wheel came'}")
        with zipfile.ZipFile(wheels[0]) as wheel:
            return parse_index(wheel)


def parse_owner(archive: zipfile.ZipFile) -> MovieLens:
    """The owner's files: ``u.data``, ``u.user``, ``u.item`` (Latin-1, one 0/1 column a genre)."""

    def lines(name: str) -> list[str]:
        return archive.read(f"ml-100k/{name}").decode("latin-1").splitlines()

    ratings = [Rating(*map(int, line.split("\t"))) for line in lines("u.data") if line]
    users = [User(int(u), int(age), gender, job, code) for u, age, gender, job, code in _split(lines("u.user"), "|")]
    movies = [_owner_movie(fields) for fields in _split(lines("u.item"), "|")]
    return _whole(ratings, users, movies)


def parse_index(wheel: zipfile.ZipFile) -> MovieLens:
    """The package's files: tab-separated with a header line, the year apart from the title."""

    def rows(suffix: str) -> list[list[str]]:
        text = wheel.read(f"recbole/dataset_example/ml-100k/ml-100k.{suffix}").decode()
        return _split(text.splitlines()[1:], "\t")

    ratings = [Rating(int(u), int(m), int(float(r)), int(float(t))) for u, m, r, t in rows("inter")]
    users = [User(int(u), int(age), gender, job, code) for u, age, gender, job, code in rows("user")]
    movies = [Movie(int(m), title, _year(year), tuple(genres.split(" "))) for m, title, year, genres in rows("item")]
    return _whole(ratings, users, movies)


def _owner_movie(fields: list[str]) -> Movie:
    title = re.fullmatch(r"(.*?)\s*\((\d{4})\)\s*", fields[1])
    name, year = (title[1], title[2]) if title else (fields[1], fields[2][-4:])
    genres = tuple(genre for genre, flag in zip(GENRES, fields[5:], strict=True) if flag == "1")
    return Movie(int(fields[0]), name, _year(year), genres)


def _year(text: str) -> int:
    return int(text) if text.isdigit() else 0


def _split(lines: list[str], separator: str) -> list[list[str]]:
    return [line.split(separator) for line in lines if line]


def _whole(ratings: list[Rating], users: list[User], movies: list[Movie]) -> MovieLens:
    ratings = sorted(ratings, key=lambda r: (r.timestamp, r.user, r.movie))
    return MovieLens(ratings, {user.user: user for user in users}, {movie.movie: movie for movie in movies})


def _keep(data: MovieLens, folder: Path) -> None:
    """Write beside the final place, then rename: the folder is there whole or not at all."""
    scratch = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        scratch.mkdir(parents=True)
        ml100k.save(data, scratch)
        (scratch / "TERMS.txt").write_text(TERMS, encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        scratch.rename(folder)
    except OSError as error:
        raise UnavailableError(f"cannot keep ml-100k in {folder}: {error}; name another folder by --to") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
