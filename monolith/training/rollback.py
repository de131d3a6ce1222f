"""Going back: a state folder begins again from an earlier snapshot of its run.

What the run made since is put aside, below ``state/rolled_back/TIME``, and the snapshot becomes the start of a new run
in the same folder, as `warm_start` makes it. While that is under way ``state/rollback.json`` says so; a trainer refuses
the folder then, and the same rollback, called again after a crash, ends it.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from monolith.config import JobConfig
from monolith.disk import make_folder, remedy, sync_folder, write_durably
from monolith.errors import ConfigError, CorruptError, MonolithError, UnavailableError
from monolith.streaming.journal import held
from monolith.streaming.marks import FILE
from monolith.streaming.source import Begin
from monolith.training.milestones import Milestones
from monolith.training.snapshot import MANIFEST, Snapshots, open_snapshot, read_manifest

if TYPE_CHECKING:
    from monolith.training.start import About

MARK = "rollback.json"
ASIDE = "rolled_back"
OF_RUN = ("journal", "snapshots", "start", "rescue", "curves.jsonl", "status.json")  # what goes aside

log = logging.getLogger(__name__)


class Kept(msgspec.Struct, frozen=True):
    """A snapshot that a run can go back to."""

    path: Path
    step: int
    sequence: int
    lineage: str
    written_ms: int  # wall time
    watermark_ms: int | None  # how far the streams were read; None: unknown
    is_milestone: bool


class _Mark(msgspec.Struct, frozen=True):
    """A rollback that was begun."""

    source: str  # the snapshot, below the state folder, where it is after the rest was put aside
    aside: str  # below the state folder
    begin: Begin


def kept(state: Path) -> list[Kept]:
    """All that the run of ``state`` can go back to, oldest first; what cannot be read is logged and left out."""
    snapshots = Snapshots(state / "snapshots")
    paths = [(path, True) for path in Milestones(state).snapshots()]
    paths += [(snapshots.path(step), False) for step in snapshots.steps()]
    return sorted(_each(paths), key=lambda one: (one.written_ms, one.step, one.is_milestone))


def _each(paths: list[tuple[Path, bool]]) -> Iterator[Kept]:
    for path, is_milestone in paths:
        try:
            manifest = read_manifest(path)
            written_ms = (path / MANIFEST).stat().st_mtime_ns // 1_000_000
            watermark_ms = msgspec.msgpack.decode((path / "clock.bin").read_bytes(), type=tuple[int, bool])[0]
        except (MonolithError, OSError, msgspec.DecodeError) as error:
            log.warning("%s cannot be gone back to: %s", path, error)
            continue
        yield Kept(path, manifest.step, manifest.sequence, manifest.lineage, written_ms, watermark_ms, is_milestone)


def check_no_rollback(state: Path) -> None:
    """Raise ConfigError where a rollback of ``state`` was begun and has not ended."""
    if (state / MARK).exists():
        raise ConfigError(
            f"a rollback of {state} was interrupted: `monolith rollback JOB` without --to brings it to its end"
        )


def is_under_way(state: Path) -> bool:
    """Whether a rollback of ``state`` was begun and has not ended."""
    return (state / MARK).exists()


def roll_back(job: JobConfig, to: Path | None, *, begin: Begin = "kept") -> tuple[About, Path]:
    """Have the run of ``job.state`` begin again from the snapshot ``to`` of that folder; where the rest was put.

    ``to`` None: end a rollback that was interrupted. ``begin``: where in the streams, see `warm_start`. Raises
    ConfigError where a trainer runs on the folder; CorruptError for a damaged snapshot, before anything is touched.
    """
    from monolith.training.warm_start import warm_start  # torch comes with it, which a list does not need

    state = Path(job.state)
    with held(state / "journal"):
        mark = _read_mark(state) if to is None else _write_mark(state, to, begin)
        aside = state / mark.aside
        try:
            make_folder(aside)
            if (state / FILE).exists():  # by which the snapshots there know their streams
                shutil.copy2(state / FILE, aside / FILE)
            for name in OF_RUN:
                _put_aside(state / name, aside / name)
            sync_folder(aside)
            sync_folder(state)
        except OSError as error:
            raise UnavailableError(f"cannot put {state} aside: {error}; {remedy(error)}, then call it again") from error
    about = warm_start(job, state / mark.source, begin=mark.begin, by="monolith rollback to")
    (state / MARK).unlink()
    sync_folder(state)
    return about, aside


def _write_mark(state: Path, to: Path, begin: Begin) -> _Mark:
    check_no_rollback(state)
    open_snapshot(to)  # every file is checked
    inside = to.relative_to(state)
    aside = Path(ASIDE) / datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    source = aside / inside if inside.parts[0] in OF_RUN else inside
    mark = _Mark(str(source), str(aside), begin)
    write_durably(state / MARK, msgspec.json.encode(mark))
    return mark


def _read_mark(state: Path) -> _Mark:
    try:
        return msgspec.json.decode((state / MARK).read_bytes(), type=_Mark)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise CorruptError(f"{state / MARK} cannot be read: {error}") from error


def _put_aside(path: Path, target: Path) -> None:
    """Move a file or what is in a folder. The journal's lock stays, since it is held."""
    if not path.is_dir():
        if path.exists():
            path.rename(target)
        return
    make_folder(target)
    for inner in path.iterdir():
        if inner.name != "lock":
            inner.rename(target / inner.name)
    if not any(path.iterdir()):
        path.rmdir()
