"""Which settings the next steps of a run are made with, and up to which step.

A run consists of *eras*, stretches of steps under the same deciding settings; the step journal says where each begins.
Journalled steps are made again under the settings of their era. When none is left, the job's own settings take hold
with the next step, in a new era where they differ.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from monolith.config import JobConfig
from monolith.config.changes import amended, changes, check_lasting, job_under
from monolith.config.deciding import Settings, settings_in, settings_of
from monolith.config.kept_job import read_kept_job
from monolith.streaming.journal import Journal
from monolith.training.snapshot import Snapshot

log = logging.getLogger(__name__)

Held = Mapping[int, Settings]  # from which step on -> settings; ascending


class Era(NamedTuple):
    """The steps from ``since`` on that one trainer makes."""

    job: JobConfig  # the one that was given, with the settings of the era
    settings: Settings
    since: int
    until: int | None = None  # the last step; None: it goes on, live or to the end of what is replayed
    is_new: bool = False  # the journal does not have it yet


def settled(journal: Journal, newest: Snapshot | None, job: JobConfig) -> Held:
    """The settings of the journal's steps. A journal of an older build has none: it is given those that were kept.

    Raises CorruptError or VersionError for a ``job.json`` that cannot be used, UnavailableError for a full disk.
    """
    if journal.settings or journal.last_step < journal.first_step:
        return journal.settings
    kept = kept_settings(journal, newest)
    if kept is None:
        log.warning("nothing says with which settings the journalled steps were made: those of the job count")
        kept = settings_of(job)
    if not journal.read_only:
        journal.settle(journal.first_step, kept)
    return {journal.first_step: kept}


def kept_settings(journal: Journal, newest: Snapshot | None) -> Settings | None:
    """What an older build kept of a run's settings: the last ones, beside the journal or in the newest snapshot."""
    path = journal.folder.parent / "job.json"
    if (kept := read_kept_job(path)) is not None:
        return settings_in(kept)
    if newest is None:
        return None
    log.warning("%s is not there: the settings of %s count for the steps since then", path, newest.path)
    return settings_in(msgspec.json.encode(newest.manifest.job))


def next_era(journal: Journal, held: Held, reached: int, job: JobConfig) -> Era:
    """The era of the step after ``reached``. What is the only way on for journalled steps is journalled first.

    Raises ConfigError, naming each, for settings that may never change in a state folder, and for those of journalled
    steps that this build cannot have.
    """
    wanted, following = settings_of(job), journal.last_step + 1
    newest = in_force(held, following)
    if newest is not None and journal.last_step:
        check_lasting(newest, wanted)
    if reached < journal.last_step:
        era = recorded_era(journal, _amended(journal, held, reached, wanted), reached, job)
        goes_on = era.until is not None or not changes(era.settings, wanted)
        return era if goes_on else era._replace(until=journal.last_step)
    if newest is None:
        return Era(job, wanted, following, is_new=True)
    found = changes(newest, wanted)
    for key, (was, now) in found.items():
        log.info("setting changed key=%s was=%r now=%r from_step=%d", key, was, now, following)
    return Era(job, wanted if found else newest, following, is_new=bool(found))


def recorded_era(journal: Journal, held: Held, reached: int, job: JobConfig) -> Era:
    """The era of the journalled step after ``reached``: ``until`` None where it is the journal's last.

    Raises ConfigError as `next_era`.
    """
    since = reached + 1
    settings = in_force(held, since)
    assert settings is not None, f"step {since} of a settled journal has no settings"
    begins = [step for step in held if since < step <= journal.last_step]
    return Era(job_under(job, settings, since), settings, since, min(begins) - 1 if begins else None)


def _amended(journal: Journal, held: Held, reached: int, wanted: Settings) -> Held:
    """The settings of the steps after ``reached``, with what is the only way on for them, which is journalled.

    The newest era first: killed in between, the next start finds those that are left as they were.
    """
    begins = [reached + 1, *(step for step in held if reached + 1 < step <= journal.last_step)]
    for step in reversed(begins):
        settings = in_force(held, step)
        assert settings is not None
        way_on = amended(settings, wanted, from_first=reached == 0)
        if way_on != settings:
            log.info("journalled steps from step=%d on are run again with %s", step, changes(settings, way_on))
            journal.settle(step, way_on)
            held = journal.settings
    return held


def in_force(held: Held, step: int) -> Settings | None:
    """The settings of ``step``; None where nothing says them."""
    since = max((since for since in held if since <= step), default=None)
    return None if since is None else held[since]
