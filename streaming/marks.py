"""By what a run knows its streams again, in ``STATE/streams.json``: a stream that was made anew has the same URL.

An offset means something in one stream only. Where a topic or a log was removed and made anew while a run stood still,
the new one may well hold the offset at which the run would go on, and everything before it would be passed over.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import msgspec

from monolith.disk import remedy, write_durably
from monolith.errors import DataLossError
from monolith.streaming.lanes import Inlet
from monolith.streaming.source import MarkedSource, open_source

log = logging.getLogger(__name__)

FILE = "streams.json"  # of a state folder, and of a milestone
MILESTONES = "milestones"  # the folder of those, in a state folder


class KeptMark(msgspec.Struct, frozen=True):
    """What is kept of one of the job's streams."""

    source: str  # `Source.name`
    mark: str  # `MarkedSource.mark`


def state_of(snapshot: Path) -> Path | None:
    """The folder that has the marks of the run whose snapshot, or milestone, this is; None where it is no run's own."""
    if snapshot.parent.parent.name == MILESTONES:
        return snapshot.parent
    return snapshot.parent.parent if snapshot.parent.name == "snapshots" else None


def read_marks(state: Path) -> dict[str, KeptMark]:
    """Of the streams, by their names in the job; none where nothing was kept. What cannot be read is logged."""
    try:
        return msgspec.json.decode((state / FILE).read_bytes(), type=dict[str, KeptMark])
    except FileNotFoundError:
        return {}
    except (OSError, msgspec.DecodeError) as error:
        log.warning("%s cannot be read (%s): whether a stream was made anew is not known", state / FILE, error)
        return {}


def expect_same(inlets: Sequence[Inlet], snapshot: Path) -> None:
    """Have each source compare itself with the one that the snapshot's run read, before it is told where to stand.

    Raises DataLossError for a stream that was made anew, unless losses are skipped: then it is read from its beginning.
    """
    state = state_of(snapshot)
    kept = {} if state is None else read_marks(state)
    for inlet in inlets:
        known = kept.get(inlet.name)
        if known is not None and known.source == inlet.source.name and isinstance(inlet.source, MarkedSource):
            inlet.source.expect(known.mark)


def is_other(known: KeptMark, url: str) -> bool:
    """Whether another stream than the ``known`` one stands under ``url``; False where none answers."""
    source = open_source(url, wait=True)
    try:
        if isinstance(source, MarkedSource) and source.name == known.source:
            source.expect(known.mark)
            source.partitions()
    except DataLossError:
        return True
    finally:
        source.close()
    return False


def keep_marks(inlets: Sequence[Inlet], state: Path) -> None:
    """Keep what the streams are known by, once a snapshot is kept whose positions are theirs.

    A disk that refuses is logged: the snapshot counts without them.
    """
    marks = {inlet.name: mark for inlet in inlets if (mark := _mark_of(inlet)) is not None}
    if not marks or marks == read_marks(state):
        return
    try:
        write_durably(state / FILE, msgspec.json.format(msgspec.json.encode(marks), indent=1) + b"\n")
    except OSError as error:
        log.warning("cannot keep what the streams are known by: %s; %s", error, remedy(error))


def _mark_of(inlet: Inlet) -> KeptMark | None:
    mark = inlet.source.mark() if isinstance(inlet.source, MarkedSource) else None
    return None if mark is None else KeptMark(inlet.source.name, mark)
