"""`monolith train` on several processes: who starts them, who stops them, and what each of them runs.

``--workers W`` starts torchrun, whose agent starts W processes of the same command and starts all of them again when
one ends with an error. What a new start cannot put right (a wrong job file, streams without samples) ends the run.
"""

from __future__ import annotations

import argparse
import ctypes
import logging
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from monolith.disk import files_for
from monolith.errors import ConfigError, DurabilityError, MonolithError, UnavailableError
from monolith.secrets import scrubbed

if TYPE_CHECKING:
    from monolith.config import JobConfig
    from monolith.training.sharding.orders import Channel
    from monolith.training.sharding.rescue import Rescuer

MAX_RESTARTS = 10
_TOLD = "MONOLITH_RANKS"  # folder in which the ranks leave word for the process that started torchrun
_LEADER, _FINAL, _STOP = "leader", "final", "stop"
_SHUTDOWN_S = 20.0  # for ranks to end by themselves, once one has failed
_DEATH_SIGNAL = 1  # Linux: PR_SET_PDEATHSIG
_STARTED_BY = os.getppid()  # of a rank: torchrun; of torchrun: the process of the command


# --- the process that starts torchrun -----------------------------------------------------------------------------


def run_workers(job: JobConfig, args: argparse.Namespace) -> int:
    """Run the command of ``args``, on ``job``, on ``args.workers`` processes.

    SIGTERM and SIGINT end it with a snapshot, and 0. Raises UnavailableError where it ended too often.
    """
    with tempfile.TemporaryDirectory(prefix="monolith-ranks-") as folder:
        told = Path(folder)
        environment = {"OMP_NUM_THREADS": "1", **os.environ, _TOLD: folder}
        agent = subprocess.Popen(
            _torchrun(args, _patience_s(job)), env=environment, start_new_session=True, preexec_fn=_die_with_parent
        )
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: _stop(told))
        code = agent.wait()
        if (told / _FINAL).exists():
            return 1
        if code:
            raise UnavailableError(
                f"the {args.workers} processes ended, and are not started again (--max-restarts "
                f"{_restarts(args)}); what ended them is above. The same command goes on from the newest snapshot"
            )
        return 0


def _restarts(args: argparse.Namespace) -> int:
    return MAX_RESTARTS if args.max_restarts is None else int(args.max_restarts)


def _patience_s(job: JobConfig) -> int:
    """Seconds for ranks to end by themselves, once one has failed: they may have rows to write."""
    return math.ceil(max(_SHUTDOWN_S, job.sharding.timeout_s if job.sharding.partial_recovery else 0.0))


def _torchrun(args: argparse.Namespace, patience_s: int) -> list[str]:
    command = [sys.executable, "-m", "monolith.commands.agent", "--standalone", "--nproc-per-node", str(args.workers)]
    command += ["--max-restarts", str(_restarts(args)), "--shutdown-timeout", str(patience_s)]
    command += ["-m", "monolith", "--log-level", args.log_level, "train", str(args.job)]
    command += [word for setting in args.set for word in ("--set", setting)]
    command += ["--quiet"] if args.quiet else []
    command += ["--dashboard", args.dashboard] if args.dashboard else []
    command += ["--tensorboard", str(args.tensorboard)] if args.tensorboard else []
    command += ["--from", str(args.source)] if args.source else []
    return command + (["--from-beginning"] if args.from_beginning else [])


def _die_with_parent() -> None:
    """Have this process asked to end when the one that started it is gone, however that ended. Linux only."""
    if sys.platform == "linux":
        with suppress(OSError):
            ctypes.CDLL(None).prctl(_DEATH_SIGNAL, signal.SIGTERM)


def _stop(told: Path) -> None:
    """Ask rank 0 to end the run; where there is none yet, those that start find that they are to end."""
    (told / _STOP).touch()
    with suppress(OSError, ValueError):
        os.kill(int((told / _LEADER).read_text()), signal.SIGTERM)


# --- each of the ranks ----------------------------------------------------------------------------------------------


def is_launched() -> bool:
    """Whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def check_is_alone(command: str) -> None:
    """Raise ConfigError where torchrun started several processes of a command of which each would do all the work."""
    ranks = os.environ.get("WORLD_SIZE", "1")
    if is_launched() and ranks != "1" and command != "train":
        raise ConfigError(
            f"monolith {command} runs in one process, and torchrun started {ranks} of it: call it without torchrun. "
            f"`monolith train` is the command that several processes share"
        )


def run_rank(job: JobConfig, lead: Callable[[Channel], None]) -> int:
    """Be one of the ranks that torchrun started: rank 0 runs ``lead``, the others do what it says. The exit code."""
    from monolith.training.sharding.group import joined
    from monolith.training.sharding.rescue import rescuing

    rank = int(os.environ["RANK"])
    _die_with_parent()
    if rank:
        logging.getLogger("monolith").setLevel(logging.ERROR)  # rank 0 says what all do
        logging.getLogger("monolith.streaming").setLevel(logging.WARNING)  # but not what befell partitions of their own
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)  # rank 0 says when it is over
    else:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # until there is a trainer to stop
        _leave_word(_LEADER, str(os.getpid()))
    if _is_told(_STOP):
        return 0
    try:
        with files_for(job.files), rescuing() as rescuer, joined(job):
            return _take_part(job, rank, lead, rescuer)
    except MonolithError as error:
        if _is_final(error) and _leave_word(_FINAL, ""):
            if rank == 0:
                print(scrubbed(f"monolith train: {type(error).__name__}: {error}"), file=sys.stderr)
            return 0  # torchrun starts all again after any other code
        if rank and _is_told(_STOP):
            return 0
        raise


def is_stop_meant() -> bool:
    """Whether SIGTERM asks for the end of the run: torchrun sends it to rank 0 when another rank has ended, too.

    That rank 0 must end without a step more. Where a person called torchrun, the two cannot be told apart: then rank 0
    finds that not all ranks answer, before it adds a step.
    """
    return _TOLD not in os.environ or _is_told(_STOP) or os.getppid() != _STARTED_BY


def _take_part(job: JobConfig, rank: int, lead: Callable[[Channel], None], rescuer: Rescuer) -> int:
    from monolith.training.sharding.group import is_of_the_group
    from monolith.training.sharding.orders import Channel

    channel = Channel(rescuer)
    try:
        return _follow_or_lead(job, rank, lead, channel)
    except RuntimeError as error:
        if is_of_the_group(error):
            rescuer.take()
        raise


def _follow_or_lead(job: JobConfig, rank: int, lead: Callable[[Channel], None], channel: Channel) -> int:
    from monolith.training.sharding.follower import follow
    from monolith.training.sharding.orders import End

    if rank:
        end = follow(job, channel)
        return 0 if end.why is None or (end.is_final and _TOLD in os.environ) else 1
    try:
        lead(channel)
    except MonolithError as error:
        with suppress(RuntimeError):  # the others may have failed alike, and be gone
            channel.tell(End(f"{type(error).__name__}: {error}", _is_final(error)))
            channel.flush()
        raise
    channel.tell(End())
    channel.flush()
    return 0


def _is_final(error: MonolithError) -> bool:
    """Whether the same command would fail again."""
    return not isinstance(error, UnavailableError | DurabilityError)


def tell_stop() -> None:
    """Have rank 0 take SIGTERM for the end of the run."""
    _leave_word(_STOP, "")


def forget_words() -> None:
    """Remove the folder of words, should the process that made it be gone."""
    if _TOLD in os.environ and os.getppid() != _STARTED_BY:
        shutil.rmtree(os.environ[_TOLD], ignore_errors=True)


def _is_told(name: str) -> bool:
    """By the process that started torchrun."""
    return _TOLD in os.environ and (Path(os.environ[_TOLD]) / name).exists()


def _leave_word(name: str, text: str) -> bool:
    """For the process that started torchrun; False where a person did."""
    if _TOLD not in os.environ:
        return False
    with suppress(OSError):
        (Path(os.environ[_TOLD]) / name).write_text(text)
    return True
