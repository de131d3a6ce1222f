"""What a training run ends with: what was read and trained, what was left out and why, and where everything is."""

from __future__ import annotations

from collections.abc import Iterator

from monolith.commands.progress import lag, left_out, scores, waiting
from monolith.config import JobConfig
from monolith.training.status import Status


def last_page(job: JobConfig, status: Status) -> Iterator[str]:
    """The lines, from the last look at the run."""
    streams = status.streams
    counts = f"{status.samples:,} samples of {streams.records:,} records in {status.step:,} steps"
    yield f"{job.name}: {counts}; {lag(streams)}"
    if found := list(scores(status.metrics)):
        yield f"  {', '.join(found)} (newest window/since the start)"
    if waits := waiting(streams):
        yield f"  {waits}"
    yield "  left out: " + ("; ".join(left_out(streams)) or "nothing")
    if streams.dead_letters:
        yield f"  each refused record with its reason: {_letters(job)}"
    for warning in status.warnings:
        yield f"  look at this: {warning}"
    yield f"  state {job.state}; " + _published(job, status)


def _letters(job: JobConfig) -> str:
    if job.input.dead_letters is None:
        return "not kept, as the job has no input.dead_letters"
    return f"monolith inspect {job.input.dead_letters} --head 10"


def _published(job: JobConfig, status: Status) -> str:
    if job.store is None:
        return "nothing published, as the job has no store"
    return f"sequence {status.sequence:,} made, the store holds {status.stored_sequence:,}"
