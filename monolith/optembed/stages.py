"""The stages one after the other, in one folder; each goes on where an earlier call was interrupted.

DIR/
  plan.json            the job and settings that all in this folder is of
  samples/             what the streams held when they were read
  supernet/            its epochs
  bytes-N/             of each number of bytes
    plan.json  search.jsonl  found.json  kept.npz  retrain/
    serving.yaml  serving/  online.yaml  online/  outcome.json
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from monolith.config import JobConfig
from monolith.config.load import job_json
from monolith.disk import make_folder, write_durably
from monolith.errors import ConfigError
from monolith.optembed.budget import check_bytes
from monolith.optembed.compression import Compression, Options, Say, epoch_line
from monolith.optembed.epochs import KeptEpochs
from monolith.optembed.outcome import Outcome, outcome_of, write_jobs, write_states
from monolith.optembed.supernet import searched
from monolith.streaming.between import Between
from monolith.streaming.journal import Positions
from monolith.sweep.readings import Reading
from monolith.training.fitting import Tell
from monolith.training.sample_file import SampleFile

WRITES = "another `monolith optembed` is at work in"  # whoever holds the folder, in words
_BESIDE = ("state", "store", "publish", "serve", "files")  # keys of a job that change nothing here


class Asked(NamedTuple):
    """What the user asked for."""

    job_file: Path
    sets: list[str]
    job: JobConfig
    part: Between
    folder: Path


class Stages:
    """One call. ``tell`` hears of progress, ``say`` gets lines for people."""

    def __init__(self, asked: Asked, options: Options, tell: Tell, say: Say) -> None:
        """Raises ConfigError and InputError for what cannot be, before anything is written."""
        self._asked, self._options, self._tell, self._say = asked, options, tell, say
        names = searched(asked.job)
        if not names:
            raise ConfigError(
                f"job {asked.job.name!r} has no table of kind optembed: say `kind: optembed` of those that are to be "
                f"searched"
            )
        given = [f"{t.name}.{key}" for t in asked.job.tables for key in ("width", "threshold") if _of(t, key, names)]
        if given:
            raise ConfigError(f"{', '.join(given)}: that is what is searched for; leave it out")
        check_bytes([table for table in asked.job.tables if table.name in names], options.max_bytes)
        self._supernet, self._own = asked.folder / "supernet", asked.folder / f"bytes-{options.max_bytes}"

    def check_plan(self) -> None:
        """Write down what is asked for. Raises ConfigError where the folder is of something else."""
        options = self._options
        job = {
            key: value for key, value in msgspec.json.decode(job_json(self._asked.job)).items() if key not in _BESIDE
        }
        part = [self._asked.part.from_ms, self._asked.part.until_ms]
        _agree(
            self._asked.folder, {"job": job, "part": part, "alpha": options.alpha, "threshold_lr": options.threshold_lr}
        )
        searching = ("generations", "population", "search_samples")
        _agree(self._own, {key: getattr(options, key) for key in searching})

    def run(self, reading: Reading) -> Outcome:
        """Do what is missing, and return what came of it."""
        path = self._own / "outcome.json"
        if path.exists():
            return msgspec.json.decode(path.read_bytes(), type=Outcome)
        with ExitStack() as files:
            parts = tuple(files.enter_context(SampleFile.reopen(p)) for p in (reading.train, reading.validation))
            self._say(f"{len(parts[0]):,} samples to train, {len(parts[1]):,} to judge")
            work = Compression(self._asked.job, self._options, (self._supernet, self._own), self._tell, self._say)
            found = work.found(*parts)
            job, epochs = work.retraining(found, *parts)
            for epoch in epochs.epochs():
                self._say(f"retrain {epoch_line(epoch, epochs)}")
            return self._told(outcome_of(job, found, epochs), epochs, reading.positions, path)

    def _told(self, outcome: Outcome, epochs: KeptEpochs, positions: Positions, path: Path) -> Outcome:
        jobs = write_jobs(self._asked.job_file, self._asked.sets, self._own, outcome)
        write_states(jobs, epochs, positions)
        write_durably(path, msgspec.json.encode(outcome))
        return outcome


def _of(table: Any, key: str, names: list[str]) -> bool:
    return table.name in names and getattr(table, key) is not None


def _agree(folder: Path, plan: dict[str, Any]) -> None:
    """Keep ``plan`` in the folder. Raises ConfigError, naming what differs, where another one is kept there."""
    make_folder(folder)
    path = folder / "plan.json"
    if path.exists():
        was, now = msgspec.json.decode(path.read_bytes()), msgspec.json.decode(msgspec.json.encode(plan))
        if differing := sorted(key for key in {*was, *now} if was.get(key) != now.get(key)):
            raise ConfigError(
                f"{folder} has results of another {', '.join(differing)}: give what was given before, another --dir, "
                f"or remove the folder"
            )
    else:
        write_durably(path, msgspec.json.encode(plan))
