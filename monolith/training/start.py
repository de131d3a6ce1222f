"""Where a run starts from when it has no snapshot of its own yet: a fitted model, or another run's.

``state/start`` holds one snapshot of step 0 with tables and dense weights, and ``start.json``: where the model comes
from, what of it was taken, and at which offsets of the streams the run begins. Where it goes on with the streams of
another run, it holds what waited in that run's joiner too. A run that has begun never looks at it again, except to
repeat its journal from step 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from monolith.config import JobConfig
from monolith.config.load import job_json
from monolith.disk import make_folder
from monolith.errors import ConfigError, CorruptError
from monolith.events import WATERMARK_START
from monolith.streaming.journal import Positions
from monolith.tables.kept_strings import KeptStrings
from monolith.training.learner import Learner
from monolith.training.snapshot import SNAPSHOT_VERSION, STRINGS, Content, Manifest, Snapshot, Snapshots

FOLDER = "start"
_ABOUT = "start.json"
_DENSE = "dense.safetensors"


class Outcome(msgspec.Struct, frozen=True):
    """What became of one part of another run's model."""

    part: str  # table user, feature city, weight mlp.0.weight, ...
    outcome: str  # taken, partly taken, new, left
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.outcome:<12}  {self.part}{': ' if self.detail else ''}{self.detail}"


class About(msgspec.Struct, frozen=True):
    """What a start is of."""

    origin: str  # for people: the command that made it, and from what
    positions: Positions = {}  # `Source.name` -> partition -> offset at which the run begins; others: their beginnings
    given: str = ""  # the snapshot or state folder of another run, as the command named it
    watermark_ms: int = WATERMARK_START  # up to which the streams were read there
    report: list[Outcome] = []  # what was taken of another run's model

    def with_outcome(self, outcome: Outcome) -> About:
        """The same with ``outcome`` at the end, in place of what is said of its part."""
        others = [one for one in self.report if one.part != outcome.part]
        return msgspec.structs.replace(self, report=[*others, outcome])


class Start(msgspec.Struct, frozen=True):
    """A start on disk."""

    snapshot: Snapshot
    about: About

    def streams(self) -> dict[str, bytes]:
        """The files that say where another run stood in its streams; none where the start is of no run."""
        own = (_DENSE, _ABOUT, STRINGS)
        names = [name for name in self.snapshot.manifest.files if not name.startswith("tables/") and name not in own]
        return {name: self.snapshot.read(name) for name in names}


def write_start(
    state: Path,
    job: JobConfig,
    learner: Learner,
    about: About,
    strings: KeptStrings | None = None,
    *,
    streams: Mapping[str, bytes] | None = None,
) -> None:
    """Make ``learner`` the start of the run of ``state``. Raises ConfigError where that run has begun already.

    ``strings``: what ids stand for, where the job keeps that. ``streams`` are the files of a snapshot that say where
    its run stood in its streams, with what waits there.
    """
    check_not_begun(state)
    make_folder(state)
    manifest = Manifest(
        version=SNAPSHOT_VERSION,
        model=job.name,
        lineage="",
        step=0,
        sequence=learner.sequence - 1,
        job=msgspec.json.decode(job_json(job)),
    )
    contents: dict[str, Content] = {
        "tables": learner.save_tables,
        _DENSE: learner.dense_state(),
        _ABOUT: msgspec.json.encode(about),
        **(streams or {}),
    }
    if strings is not None and strings.features:
        contents[STRINGS] = strings.state(learner.tables)
    Snapshots(state / FOLDER, keep=1).write(manifest, contents)


def has_begun(state: Path) -> bool:
    """Whether the run of the state folder ``state`` made a step."""
    return any((state / "journal").glob("*.journal"))


def strings_of(snapshot: Snapshot, learner: Learner) -> KeptStrings:
    """What ids stand for, of those features whose strings ``learner``'s job keeps, as ``snapshot`` has it."""
    kept = KeptStrings(learner.features)
    if STRINGS in snapshot.manifest.files:
        kept.restore(snapshot.read(STRINGS))
    return kept


def check_not_begun(state: Path) -> None:
    """Raises ConfigError where the run of the state folder ``state`` has begun."""
    if has_begun(state):
        raise ConfigError(
            f"the run in {state} has begun, so it cannot start from another model any more: give a new `state`"
        )


def read_start(state: Path) -> Start | None:
    """The start of the run of ``state``, or None. Raises CorruptError where it cannot be used."""
    snapshot = Snapshots(state / FOLDER, keep=1).newest()
    if snapshot is None:
        return None
    try:
        return Start(snapshot, msgspec.json.decode(snapshot.read(_ABOUT), type=About))
    except msgspec.DecodeError as error:
        raise CorruptError(f"{snapshot.path / _ABOUT} cannot be read: {error}") from error
