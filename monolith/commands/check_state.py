"""What a job's store and state folder hold: from where a run would go on, and whether it may with these settings."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

from monolith.commands.check import Findings
from monolith.commands.check_tables import most_bytes
from monolith.commands.eras import in_force, settled
from monolith.commands.inspect import moment, size
from monolith.config import JobConfig
from monolith.config.changes import changes, check_lasting
from monolith.config.deciding import settings_of
from monolith.config.references import check_late
from monolith.disk import lives, read_by_others
from monolith.errors import ConfigError, MonolithError, UnavailableError
from monolith.secrets import masked
from monolith.streaming.journal import Journal

RUNNING_S = 10.0  # a status younger than this is of a trainer that runs


def check_store(job: JobConfig, found: Findings) -> None:
    """Say what the store holds; a Redis server that does not answer is a fault."""
    if job.store is None:
        found.show("store: none; nothing is published")
        return
    from monolith.serving.store import open_store

    check_late(job, "store")
    shown = masked(job.store)
    store = open_store(job.store, job.name, create=False)
    try:
        version = store.model().version
        found.show(
            f"store: {shown}: run {version.lineage}, sequence {version.sequence}, after step {version.step}, published "
            f"{moment(version.published_ms)}"
        )
    except UnavailableError as error:
        is_empty = "holds no model yet" in str(error) or "there is no LMDB store" in str(error)
        found.show(f"store: {shown}: {'empty' if is_empty else 'does not answer'}")
        if not is_empty:
            found.fault(f"store: {error}")
    finally:
        store.close()


def check_state(job: JobConfig, found: Findings) -> None:
    """Say from which step a run would go on, and what the settings that changed since then allow."""
    state = Path(job.state)
    if not state.exists():
        found.show(f"state: {state}: not there; a run would begin at step 1")
        _check_room(job, _first_folder(state), found)
        return
    if not state.is_dir():
        found.fault(f"state: {state} is a file; name a folder")
        return
    _check_room(job, state, found)
    if read_by_others(state, job.files):
        found.warn(f"state: others may look into {state}; chmod -R go-rwx {state}, or set files: group")
    _check_running(state, found)
    _check_run(job, state, found)


def _check_run(job: JobConfig, state: Path, found: Findings) -> None:
    from monolith.training.rollback import check_no_rollback
    from monolith.training.snapshot import Snapshots

    try:
        check_no_rollback(state)
    except ConfigError as error:
        found.fault(f"state: {error}")
        return
    snapshots = Snapshots(state / "snapshots").steps()
    reached = snapshots[-1] if snapshots else 0
    if not any((state / "journal").glob("*.journal")):
        found.show(f"state: {state}: no run in it; one would begin at step 1")
        if snapshots:
            found.fault(f"state: {state} has snapshots but no step journal: restore {state / 'journal'}")
        return
    journal = Journal(state / "journal", read_only=True)
    pending = journal.last_step - reached
    where = f"the snapshot of step {reached}" if reached else "the beginning"
    again = f"{max(pending, 0):,} journalled steps to run again"
    found.show(f"state: {state}: run {journal.lineage}, would go on at step {reached + 1} from {where}; {again}")
    if journal.first_step > reached + 1:
        found.fault(f"state: the journal begins at step {journal.first_step}, the newest snapshot is of step {reached}")
    _check_settings(job, journal, found)


def _check_settings(job: JobConfig, journal: Journal, found: Findings) -> None:
    held = in_force(settled(journal, None, job), journal.last_step + 1)
    if held is None:
        return
    wanted = settings_of(job)
    try:
        check_lasting(held, wanted)
    except ConfigError as error:
        found.fault(str(error))
        return
    for key, (was, now) in changes(held, wanted).items():
        found.show(f"  setting changed: {key} was {was!r}, now {now!r}, from step {journal.last_step + 1} on")


def _check_running(state: Path, found: Findings) -> None:
    from monolith.training.status import read_status

    try:
        status = read_status(state / "status.json")
    except (MonolithError, OSError):
        return
    if status is None or status.ended:
        return
    age_s = time.time() - status.updated_ms / 1000
    if age_s < RUNNING_S and lives(status.pid):
        found.show(f"state: a trainer runs (process {status.pid}, step {status.step}); a second one would be refused")


def _first_folder(path: Path) -> Path:
    """The nearest folder around ``path`` that is there."""
    return next((parent for parent in path.absolute().parents if parent.is_dir()), Path("/"))


def _check_room(job: JobConfig, folder: Path, found: Findings) -> None:
    """Whether the folder can be written, and its disk holds the snapshots of full tables."""
    if not os.access(folder, os.W_OK | os.X_OK):
        found.fault(
            f"state: this user may not write in {folder}: give the right (chown, chmod), or name another folder"
        )
        return
    limits = [most_bytes(table) for table in job.tables]
    needed = sum(limit or 0 for limit in limits) * (job.train.keep_snapshots + 1)
    free = shutil.disk_usage(folder).free
    if needed > free:
        count = job.train.keep_snapshots + 1
        found.warn(f"state: {count} snapshots of full tables take {size(needed)}, the disk has {size(free)} free")
