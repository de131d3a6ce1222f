"""What is in a state folder or a snapshot, in people's words, and where the room on its disk goes.

Only reads, also beside a running trainer. Everything is told before the first fault is raised.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from monolith.commands.inspect import moment, size
from monolith.commands.inspect_parts import owners
from monolith.disk import bytes_below
from monolith.errors import ConfigError, CorruptError, MonolithError

if TYPE_CHECKING:
    from monolith.training.snapshot import Snapshots

OWN_FILES = ("graph-*.onnx", "status.json", "curves.jsonl", "streams.json")


def folder_lines(path: Path) -> Iterator[str]:
    """A snapshot's folder or a job's state folder.

    Raises ConfigError for any other folder, and CorruptError where something in it cannot be used.
    """
    from monolith.training.snapshot import MANIFEST

    if (path / MANIFEST).is_file():
        yield from _snapshot(path)
    elif (path / "journal").is_dir() or (path / "start").is_dir():
        yield from _state(path)
    else:
        raise ConfigError(f"{path} is neither a snapshot (it has no {MANIFEST}) nor a job's state folder (no journal)")


def _state(path: Path) -> Iterator[str]:
    from monolith.training.snapshot import Snapshots

    snapshots, faults, has_settings = Snapshots(path / "snapshots"), [], False
    if (path / "start").is_dir():
        faults += yield from _start(path)
    try:
        if (path / "journal").is_dir():
            has_settings = yield from _journal(path / "journal")
    except MonolithError as error:
        faults.append(str(error))
        yield f"journal {path / 'journal'} cannot be used: {size(bytes_below(path / 'journal'))}"
    faults += yield from _each_snapshot(snapshots)
    yield from _apart(path)
    yield from _status(path)
    yield from _unfinished(path, snapshots)
    for stranger in snapshots.strangers():
        yield f"{stranger} is no snapshot and not the trainer's: {size(bytes_below(stranger))}"
    if (path / "job.json").exists():
        faults += yield from _kept_job(path / "job.json", is_read=not has_settings)
    own = [(name, sum(bytes_below(found) for found in path.glob(name))) for name in OWN_FILES]
    yield "files: " + ", ".join(f"{name} {size(taken)}" for name, taken in own)
    yield f"{path} takes {size(bytes_below(path))} in all"
    if faults:
        raise CorruptError(f"{len(faults)} things in {path} cannot be used: {'; '.join(faults)}")


def _start(path: Path) -> Generator[str, None, list[str]]:
    """What the run begins from, and what is wrong with it."""
    from monolith.training.start import read_start

    try:
        start = read_start(path)
    except MonolithError as error:
        yield f"start {path / 'start'} cannot be used: {size(bytes_below(path / 'start'))}"
        return [str(error)]
    if start is not None:
        yield f"start {start.snapshot.path}: {start.about.origin}"
        yield from (f"  {one}" for one in start.about.report)
    return []


def _kept_job(path: Path, *, is_read: bool) -> Generator[str, None, list[str]]:
    """What an older build left there, and what is wrong with it; it counts until the journal has settings."""
    from monolith.config.kept_job import read_kept_job

    yield f"{path}: of an older build, {size(bytes_below(path))}{'' if is_read else ', and no longer read'}"
    try:
        if is_read:
            read_kept_job(path)
    except MonolithError as error:
        return [str(error)]
    return []


def _status(path: Path) -> Iterator[str]:
    """What the trainer last said of itself."""
    from monolith.commands.progress import lag, left_out, scores, waiting
    from monolith.training.status import read_status

    status = read_status(path / "status.json")
    if status is None:
        return
    yield (
        f"status of {moment(status.updated_ms)}: {status.samples:,} samples of {status.streams.records:,} records; "
        + (f"stopped; {lag(status.streams)}" if status.ended else lag(status.streams))
    )
    yield from (f"  {score}" for score in scores(status.metrics))
    if waits := waiting(status.streams):
        yield f"  {waits}"
    yield "  left out: " + ("; ".join(left_out(status.streams)) or "nothing")
    yield from (f"  look at this: {warning}" for warning in status.warnings)


def _each_snapshot(snapshots: Snapshots) -> Generator[str, None, list[str]]:
    """Tells each of them, and returns what is wrong with those that cannot be used."""
    faults: list[str] = []
    for step in snapshots.named():
        try:
            yield from _snapshot(snapshots.path(step))
        except (MonolithError, OSError) as error:
            if os.path.lexists(snapshots.path(step)):  # else a running trainer dropped it meanwhile
                faults.append(str(error))
                yield f"snapshot {snapshots.path(step)} cannot be used: {size(bytes_below(snapshots.path(step)))}"
    return faults


def _apart(path: Path) -> Iterator[str]:
    """What `monolith rollback` goes back to, and what it put aside."""
    from monolith.training.milestones import Milestones
    from monolith.training.rollback import ASIDE, is_under_way

    if is_under_way(path):
        yield "a rollback was interrupted: `monolith rollback JOB` brings it to its end"
    for milestone in Milestones(path).snapshots():
        yield f"milestone {milestone}: taken {milestone.parent.name}, {size(bytes_below(milestone))}"
    for aside in sorted((path / ASIDE).glob("*")):
        yield f"put aside by a rollback {aside}: {size(bytes_below(aside))}"


def _unfinished(path: Path, snapshots: Snapshots) -> Iterator[str]:
    """What a killed process left, or a running one has in hand."""
    leftovers = [*snapshots.leftovers(), *path.glob("*.tmp"), *path.glob("journal/*.tmp")]
    if leftovers:
        taken = size(sum(bytes_below(leftover) for leftover in leftovers))
        yield f"unfinished: {len(leftovers)}, {taken}; what no running trainer has in hand goes at its next start"
    for leftover in leftovers:
        yield f"  {leftover}: {size(bytes_below(leftover))}"


def _journal(path: Path) -> Generator[str, None, bool]:
    """Tells it, and returns whether it has settings."""
    from monolith.streaming.journal import Journal

    journal = Journal(path, read_only=True)
    published, last = 0, None
    for last in journal.read(journal.first_step):
        published += last.publish
    files = sorted(path.glob("*.journal"))
    yield f"journal {path}: run {journal.lineage}, steps {journal.first_step:,} to {journal.last_step:,}"
    yield f"  {len(files)} files, {size(sum(bytes_below(file) for file in files))}"
    if last is not None:
        yield f"  watermark {moment(last.watermark_ms)}, {published:,} steps published a delta"
        for stream, ends in last.ends.items():
            yield f"  {stream}: " + ", ".join(f"partition {p} at {offset:,}" for p, offset in sorted(ends.items()))
    yield from (f"  {entry}" for entry in journal.recoveries)
    yield from _settings(journal.settings)
    return bool(journal.settings)


def _settings(held: dict[int, bytes]) -> Iterator[str]:
    """From which step on the settings that decide bits held, and what changed there."""
    from monolith.config.changes import changes
    from monolith.config.deciding import flat

    if not held:
        yield "  settings: none yet, they are written before the next step"
    before = b""
    for since, settings in held.items():
        known = len(flat(msgspec.json.decode(settings)))
        changed = changes(before, settings) if before else {}
        what = f"{len(changed)} of {known} changed" if before else f"{known} that decide bits"
        yield f"  settings from step {since:,} on: {what}"
        for key, (was, now) in changed.items():
            yield f"    {key}: {was!r} -> {now!r}"
        before = settings


def _snapshot(path: Path) -> Iterator[str]:
    from monolith.tables.kept_strings import KeptStrings
    from monolith.tables.kinds import open_to_read, parts_saved
    from monolith.training.snapshot import RANKS, STRINGS, open_snapshot

    snapshot = open_snapshot(path)
    manifest = snapshot.manifest
    total = sum(entry.bytes for entry in manifest.files.values())
    yield f"snapshot {path}: model {manifest.model!r}, run {manifest.lineage}"
    files = f"{len(manifest.files)} files, {size(total)}, all checksums right"
    yield f"  step {manifest.step}, sequence {manifest.sequence}, {files}"
    ranks = msgspec.json.decode(snapshot.read(RANKS), type=int) if RANKS in manifest.files else 0
    if ranks:
        yield f"  written by {ranks} rank{'s' if ranks > 1 else ''}; any other number goes on from it"
    for name, folder in snapshot.tables().items():
        table = open_to_read(folder)
        stats = table.stats()
        yield (
            f"  table {name}: {stats.rows:,} rows of dim {table.dim} ({table.config.kind}, "
            f"{size(table.num_bytes())} to answer), {stats.admitted:,} admitted, "
            f"{stats.rejected:,} occurrences without a row, {stats.expired:,} expired, "
            f"{stats.evicted:,} evicted; clock {moment(table.clock_ms)}"
        )
        if ranks:
            for part, below in parts_saved(folder).items():
                if part not in ("", name):
                    yield f"    {part}:"
                yield from owners(below, ranks)
    if STRINGS in manifest.files:
        kept = KeptStrings.from_state(snapshot.read(STRINGS))
        for feature in kept.features:
            texts = kept.of(feature).values()
            taken = sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
            yield f"  strings of {feature}: {len(texts):,} kept, {size(taken)}"
