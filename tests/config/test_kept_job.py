"""``job.json``: where older builds kept the settings of a run, under a checksum."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import pytest

from monolith.config.kept_job import KEPT_VERSION, _checksum, read_kept_job
from monolith.config.load import job_json
from monolith.errors import CorruptError, VersionError


def keep(path: Path, text: bytes) -> None:
    """As those builds did (docs/formats.md)."""
    path.write_bytes(b'{"version":2,"crc32":%d,"job":%s}' % (zlib.crc32(b"2 " + text), text))


def test_what_was_kept_is_read(parse, tmp_path):
    keep(tmp_path / "job.json", job_json(parse()))
    assert read_kept_job(tmp_path / "job.json") == job_json(parse())


def test_what_was_never_kept_is_none(tmp_path):
    assert read_kept_job(tmp_path / "job.json") is None


def test_the_job_alone_as_older_builds_kept_it_is_read(parse, tmp_path):
    (tmp_path / "job.json").write_bytes(job_json(parse()))
    assert read_kept_job(tmp_path / "job.json") == job_json(parse())


def test_a_flipped_bit_anywhere_is_damage_and_named(parse, tmp_path):
    path = tmp_path / "job.json"
    keep(path, job_json(parse()))
    whole = path.read_bytes()
    for at in range(len(whole)):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << (at % 7)
        path.write_bytes(damaged)
        with pytest.raises(CorruptError, match=rf"{path} is damaged: .*restore it .*or move it away"):
            read_kept_job(path)


@pytest.mark.parametrize("damage", [b"", b"{", b"null", b"[]", b'{"version":2}', b"\xff", b"[" * 100_000])
def test_what_is_no_job_is_damage_and_named(tmp_path, damage):
    (tmp_path / "job.json").write_bytes(damage)
    with pytest.raises(CorruptError, match=r"job\.json is damaged"):
        read_kept_job(tmp_path / "job.json")


def test_a_cut_anywhere_is_damage_and_named(parse, tmp_path):
    path = tmp_path / "job.json"
    keep(path, job_json(parse()))
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(CorruptError, match="damaged"):
            read_kept_job(path)


def test_a_later_build_s_file_is_of_another_version(parse, tmp_path):
    job = json.loads(job_json(parse()))
    text = json.dumps(job, separators=(",", ":")).encode()
    later = KEPT_VERSION + 1
    (tmp_path / "job.json").write_bytes(b'{"version":%d,"crc32":%d,"job":%s}' % (later, _checksum(later, text), text))
    with pytest.raises(VersionError, match=f"of version {later}, this build reads 1 and {KEPT_VERSION}"):
        read_kept_job(tmp_path / "job.json")
