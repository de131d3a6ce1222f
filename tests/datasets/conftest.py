from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import Path

import pytest

from monolith.datasets import ml100k

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "ml100k"


def _zip(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


@pytest.fixture
def owner_zip() -> bytes:
    """Three ratings in the owner's form."""
    flags = {"Comedy": 5, "Drama": 8}
    genres = ["1" if i in flags.values() else "0" for i in range(19)]
    item = "|".join(["7", "Misérables, Les (1995)", "01-Jan-1995", "", "http://x", *genres])
    unknown = "|".join(["8", "unknown", "", "", "", "1", *["0"] * 18])
    return _zip(
        {
            "ml-100k/u.data": b"2\t8\t3\t100\n1\t7\t5\t100\n1\t8\t4\t50\n",
            "ml-100k/u.user": b"1|24|M|technician|85711\n2|53|F|other|T8H1N\n",
            "ml-100k/u.item": f"{item}\n{unknown}\n".encode("latin-1"),
        }
    )


@pytest.fixture
def index_wheel() -> bytes:
    """The same three ratings as the package on the index holds them."""
    folder = "recbole/dataset_example/ml-100k/ml-100k"
    return _zip(
        {
            f"{folder}.inter": b"user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
            b"1\t8\t4\t50\n2\t8\t3\t100\n1\t7\t5\t100\n",
            f"{folder}.user": b"user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token\n"
            b"1\t24\tM\ttechnician\t85711\n2\t53\tF\tother\tT8H1N\n",
            f"{folder}.item": "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
            "7\tMisérables, Les\t1995\tComedy Drama\n8\tunkonwn\tunkonwn\tunknown\n".encode(),
        }
    )


@pytest.fixture
def three_are_right(monkeypatch: pytest.MonkeyPatch) -> None:
    """Expect the checksum of the three ratings above."""
    three = b"1\t8\t4\t50\n1\t7\t5\t100\n2\t8\t3\t100\n"
    monkeypatch.setattr(ml100k, "RATINGS_SHA256", hashlib.sha256(three).hexdigest())


@pytest.fixture
def shared_ml100k() -> Path:
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED} is not there: the real datasets are not part of this repository")
    return SHARED
