from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest

from monolith.datasets import ml100k
from monolith.datasets.ml100k import Movie, Rating, User
from monolith.datasets.ml100k_origin import parse_index, parse_owner
from monolith.errors import CorruptError


def _archive(data: bytes) -> zipfile.ZipFile:
    return zipfile.ZipFile(io.BytesIO(data))


def test_owner_and_index_hold_the_same_data(owner_zip, index_wheel):
    owner, index = parse_owner(_archive(owner_zip)), parse_index(_archive(index_wheel))
    assert owner.ratings == index.ratings == [Rating(1, 8, 4, 50), Rating(1, 7, 5, 100), Rating(2, 8, 3, 100)]
    assert owner.users == index.users
    assert owner.users[2] == User(2, 53, "F", "other", "T8H1N")
    assert owner.movies[7] == index.movies[7] == Movie(7, "Misérables, Les", 1995, ("Comedy", "Drama"))
    assert owner.movies[8].year == index.movies[8].year == 0


@pytest.mark.usefixtures("three_are_right")
def test_what_is_saved_is_loaded(owner_zip, tmp_path: Path):
    data = parse_owner(_archive(owner_zip))
    ml100k.save(data, tmp_path)
    assert ml100k.load(tmp_path) == data


@pytest.mark.usefixtures("three_are_right")
def test_a_changed_rating_is_found_when_loading(owner_zip, tmp_path: Path):
    ml100k.save(parse_owner(_archive(owner_zip)), tmp_path)
    path = tmp_path / ml100k.RATINGS
    path.write_bytes(path.read_bytes().replace(b"\t4\t50", b"\t5\t50"))
    with pytest.raises(CorruptError, match=r"ratings\.tsv have SHA-256 .* expected .*; delete .* and run"):
        ml100k.load(tmp_path)


def test_ratings_from_four_on_are_liked_two_seconds_later(owner_zip):
    first, second, third = parse_owner(_archive(owner_zip)).impressions()
    assert first.action is not None
    assert first.action.event_time_ms - first.feature.event_time_ms == 2000
    assert first.action.request_id == first.feature.request_id == "1-50"
    assert second.action is not None
    assert second.feature.features["genres"] == ["Comedy", "Drama"]
    assert third.action is None
    assert third.feature.event_time_ms == 100_000


def test_no_feature_tells_the_rating(owner_zip):
    for impression in parse_owner(_archive(owner_zip)).impressions():
        assert set(impression.feature.features) == {
            "user",
            "movie",
            "age",
            "gender",
            "occupation",
            "zip",
            "genres",
            "year",
        }


@pytest.mark.shared
def test_the_checksum_is_that_of_the_real_ratings(shared_ml100k: Path):
    parquet = pytest.importorskip("pyarrow.parquet")
    columns = parquet.read_table(shared_ml100k / "ratings.parquet").to_pydict()
    ratings = [
        Rating(*row) for row in zip(*(columns[c] for c in ("user_id", "movie_id", "rating", "timestamp")), strict=True)
    ]
    ml100k.check_ratings(ml100k.canonical_ratings(ratings), "the shared copy", "")
    with pytest.raises(CorruptError):
        ml100k.check_ratings(ml100k.canonical_ratings(ratings[1:]), "one less", "")
