"""``job.json``: the settings of the run so far, under a checksum."""

from __future__ import annotations

import errno
import json
import os

import pytest

from monolith.config.kept_job import KEPT_VERSION, _checksum, keep_job, read_kept_job
from monolith.config.load import job_json
from monolith.errors import CorruptError, UnavailableError, VersionError


def test_what_is_kept_is_read_back(parse, tmp_path):
    keep_job(tmp_path / "job.json", parse())
    assert read_kept_job(tmp_path / "job.json") == job_json(parse())
    assert [path.name for path in tmp_path.iterdir()] == ["job.json"]


def test_what_was_never_kept_is_none(tmp_path):
    assert read_kept_job(tmp_path / "job.json") is None


def test_the_job_alone_as_older_builds_kept_it_is_read(parse, tmp_path):
    (tmp_path / "job.json").write_bytes(job_json(parse()))
    assert read_kept_job(tmp_path / "job.json") == job_json(parse())


def test_a_flipped_bit_anywhere_is_damage_and_named(parse, tmp_path):
    path = tmp_path / "job.json"
    keep_job(path, parse())
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
    keep_job(path, parse())
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


def test_equal_settings_are_not_written_again_so_that_a_full_disk_keeps_no_job_from_starting(
    parse, tmp_path, monkeypatch
):
    path = tmp_path / "job.json"
    keep_job(path, parse())

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("monolith.config.kept_job.write_durably", full)
    keep_job(path, parse())
    with pytest.raises(UnavailableError, match=rf"cannot keep the job's settings in {path}: .*No space.*make room"):
        keep_job(path, parse(sets=["seed=4"]))
