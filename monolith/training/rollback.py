"""Going back: a state folder begins again from an earlier snapshot of its run.

The start of a new run is made of the snapshot beside the run, as `warm_start` makes it; whatever is wrong is found by
then. Then the run is put aside, below ``state/rolled_back/TIME``, and the start takes its place. While that is under
way ``state/rollback.json`` says so; a trainer refuses the folder then, and the same command, called again, ends it.
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
from monolith.training.snapshot import MANIFEST, Snapshots, read_manifest

if TYPE_CHECKING:
    from monolith.training.start import About

MARK = "rollback.json"
ASIDE = "rolled_back"
SCRATCH = ".rollback.tmp"  # a state folder with the start alone
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
    if is_under_way(state):
        raise ConfigError(
            f"a rollback of {state} was interrupted: `monolith rollback JOB` without --to brings it to its end"
        )


def is_under_way(state: Path) -> bool:
    """Whether a rollback of ``state`` was begun and has not ended."""
    return (state / MARK).exists()


def roll_back(job: JobConfig, to: Path, *, begin: Begin = "kept") -> tuple[About, Path]:
    """Have the run of ``job.state`` begin again from the snapshot ``to``; what of it was taken, and where the rest is.

    ``begin``: where in the streams, see `warm_start`. Raises, before anything is touched, ConfigError where a trainer
    runs on the folder, CorruptError for a damaged snapshot, and what `warm_start` does. Raises UnavailableError for a
    disk that refuses: `resume` then.
    """
    from monolith.training.warm_start import warm_start  # torch comes with it, which a list does not need

    state = Path(job.state)
    with held(state / "journal"):
        check_no_rollback(state)
        shutil.rmtree(state / SCRATCH, ignore_errors=True)
        try:
            beside = msgspec.structs.replace(job, state=str(state / SCRATCH))
            warm_start(beside, to, begin=begin, by="monolith rollback to")
        except BaseException:
            shutil.rmtree(state / SCRATCH, ignore_errors=True)
            raise
        aside = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        write_durably(state / MARK, msgspec.json.encode({"aside": f"{ASIDE}/{aside}"}))
        return _exchange(state)


def resume(state: Path) -> tuple[About, Path]:
    """As `roll_back`: bring the rollback of ``state`` that was interrupted to its end."""
    with held(state / "journal"):
        return _exchange(state)


def _exchange(state: Path) -> tuple[About, Path]:
    """Put the run aside and the start that was made in its place, then take the mark away; from wherever it stands."""
    from monolith.training.start import FOLDER, read_start

    aside = state / _marked(state)
    try:
        if (state / SCRATCH / FOLDER).exists():
            make_folder(aside)
            if (state / FILE).exists():  # by which the snapshots there know their streams
                shutil.copy2(state / FILE, aside / FILE)
            for name in OF_RUN:
                _put_aside(state / name, aside / name)
            sync_folder(aside)
            (state / SCRATCH / FOLDER).rename(state / FOLDER)
        shutil.rmtree(state / SCRATCH, ignore_errors=True)
        sync_folder(state)
        start = read_start(state)
        if start is None:
            raise CorruptError(
                f"{state} has no {FOLDER}/: what the rollback made is gone; begin from what is in {aside}"
            )
        (state / MARK).unlink()
        sync_folder(state)
    except OSError as error:
        raise UnavailableError(f"cannot put {state} aside: {error}; {remedy(error)}, then call it again") from error
    return start.about, aside


def _marked(state: Path) -> Path:
    """The folder that the rollback puts things aside to, below the state folder."""
    try:
        return Path(msgspec.json.decode((state / MARK).read_bytes(), type=dict[str, str])["aside"])
    except (msgspec.DecodeError, KeyError) as error:
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
