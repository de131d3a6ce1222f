from __future__ import annotations

import io
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from monolith.datasets import ml100k, ml100k_origin
from monolith.errors import CorruptError, UnavailableError


def _no_network(*_args: object, **_kwargs: object) -> None:
    raise urllib.error.URLError("no route to host")


@pytest.fixture
def pip(monkeypatch: pytest.MonkeyPatch, index_wheel: bytes) -> list[list[str]]:
    """A pip that downloads the small wheel; the commands it was given."""
    commands: list[list[str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        (Path(command[command.index("--dest") + 1]) / "recbole-1.2.1-py3-none-any.whl").write_bytes(index_wheel)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    return commands


@pytest.mark.usefixtures("three_are_right")
def test_the_owner_is_asked_first(monkeypatch, owner_zip, pip, tmp_path: Path):
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_a, **_k: io.BytesIO(owner_zip))
    folder, how = ml100k_origin.get(tmp_path / "ml-100k")
    assert how == f"from {ml100k_origin.OWNER_URL}, checksum matches"
    assert len(ml100k.load(folder).ratings) == 3
    assert "GroupLens" in (folder / "TERMS.txt").read_text()
    assert pip == []


@pytest.mark.usefixtures("three_are_right")
@pytest.mark.parametrize("answer", [None, b"<html>please log in</html>"])
def test_the_index_is_asked_where_the_owner_gives_nothing(monkeypatch, pip, tmp_path: Path, answer):
    monkeypatch.setattr(
        urllib.request, "urlopen", _no_network if answer is None else lambda *_a, **_k: io.BytesIO(answer)
    )
    folder, how = ml100k_origin.get(tmp_path / "ml-100k")
    assert "recbole==1.2.1" in how
    assert len(ml100k.load(folder).ratings) == 3
    assert "--no-deps" in pip[0]


@pytest.mark.usefixtures("three_are_right", "pip")
def test_what_is_there_is_not_fetched_again(monkeypatch, tmp_path: Path):
    monkeypatch.setattr(urllib.request, "urlopen", _no_network)
    monkeypatch.setenv("MONOLITH_DATA", str(tmp_path))
    first, _ = ml100k_origin.get()
    monkeypatch.setattr(subprocess, "run", _no_network)
    assert ml100k_origin.get() == (first, "already here, checksum matches")
    assert first == tmp_path / "ml-100k"


def test_without_any_network_the_error_names_both_origins_and_what_to_do(monkeypatch, tmp_path: Path):
    def failing_pip(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, "", "ERROR: no matching distribution")

    monkeypatch.setattr(urllib.request, "urlopen", _no_network)
    monkeypatch.setattr(subprocess, "run", failing_pip)
    with pytest.raises(UnavailableError) as caught:
        ml100k_origin.get(tmp_path / "ml-100k")
    for word in (
        ml100k_origin.OWNER_URL,
        "no route to host",
        "recbole==1.2.1",
        "no matching distribution",
        "MONOLITH_DATA",
    ):
        assert word in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_other_ratings_than_expected_are_not_kept(monkeypatch, owner_zip, tmp_path: Path):
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_a, **_k: io.BytesIO(owner_zip))
    with pytest.raises(CorruptError, match=f"expected {ml100k.RATINGS_SHA256}; the origin changed"):
        ml100k_origin.get(tmp_path / "ml-100k")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("three_are_right")
def test_a_folder_that_cannot_be_written_is_said(monkeypatch, owner_zip, tmp_path: Path):
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_a, **_k: io.BytesIO(owner_zip))
    (tmp_path / "file").write_text("")
    with pytest.raises(UnavailableError, match=r"cannot keep ml-100k in .*; name another folder by --to"):
        ml100k_origin.get(tmp_path / "file" / "ml-100k")
