"""``job.json``: the job of a run's newest steps, as builds kept it whose step journals had no settings.

``{"version":2,"crc32":N,"job":{...}}``, where N is the CRC-32 of the version's digits, a space and the bytes of ``job``
as they stand in the file (`docs/formats.md`). Version 1 was the job alone, which no check protects. Both are read, and
neither is written any more.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import msgspec

from monolith.disk import remedy
from monolith.errors import CorruptError, UnavailableError, VersionError

KEPT_VERSION = 2


class _Kept(msgspec.Struct, forbid_unknown_fields=True):
    version: int
    crc32: int
    job: msgspec.Raw


def read_kept_job(path: Path) -> bytes | None:
    """The canonical JSON of the job in ``path``, as `job_json` of the build that wrote it; None where there is no file.

    Raises CorruptError, VersionError for a later build's file, and UnavailableError for a disk that does not let it be
    read.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UnavailableError(f"cannot read the settings of the run so far: {error}; {remedy(error)}") from error
    try:
        fields = msgspec.json.decode(data)
        if isinstance(fields, dict) and "tables" in fields and "input" in fields:
            return data
        kept = msgspec.json.decode(data, type=_Kept)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _damaged(path, str(error)) from None
    if _checksum(kept.version, bytes(kept.job)) != kept.crc32:
        raise _damaged(path, "its checksum does not match")
    if kept.version != KEPT_VERSION:
        raise VersionError(f"{path} is of version {kept.version}, this build reads 1 and {KEPT_VERSION}")
    return bytes(kept.job)


def _damaged(path: Path, why: str) -> CorruptError:
    return CorruptError(
        f"{path} is damaged: {why}. It holds the settings of the run so far: restore it from a backup, or move it "
        "away, and the settings of the newest snapshot count instead"
    )


def _checksum(version: int, job: bytes) -> int:
    return zlib.crc32(b"%d " % version + job)
