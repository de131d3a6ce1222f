"""The processes that train one model together: how they meet, what they must agree on, and who is missing.

They are started by torchrun, which says in the environment how they find each other, and starts all of them again when
one ends with an error. Rank 0 is the one that reads the streams.
"""

from __future__ import annotations

import gc
import os
import platform
import re
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from importlib import metadata

import msgspec
import torch
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from monolith.config import JobConfig
from monolith.config.deciding import flat
from monolith.config.load import job_json
from monolith.errors import ConfigError, UnavailableError
from monolith.training.devices import CPU, backend_of, device_of, kind_of_device

_ROLL_CALL_S = 5.0  # for the ranks that waited in vain to say so
_ENDED_S = 2.0  # and that lost a connection
_LAST_S = 0.5  # for the last one that has not: of the others it is known that they are there
_POLL_S = 0.05
_TIMED_OUT, _CUT_OFF = "timed out", "cut off"
_WORDS = ("gloo", "Connection", "imed out", "imeout")  # of what torch says where another rank does not answer


@contextmanager
def joined(job: JobConfig) -> Iterator[None]:
    """Be one of the ranks until the block ends.

    Raises ConfigError, on all ranks, where they have other jobs, versions or devices. Raises UnavailableError, naming
    them, in place of what torch says where others do not answer within the job's ``sharding.timeout_s``.
    """
    shared, rank, ranks = next(rendezvous("env://"))
    store = PrefixStore(f"start {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", shared)  # torchrun's outlives us
    limit_s = job.sharding.timeout_s
    backend = _backend(job, PrefixStore("device", store), rank, ranks)
    dist.init_process_group(
        backend, store=PrefixStore("group", store), rank=rank, world_size=ranks, timeout=timedelta(seconds=limit_s)
    )
    try:
        check_same(job)
        yield
    except RuntimeError as error:
        if not is_of_the_group(error):
            raise
        _let_go(error)
        raise UnavailableError(_absence(PrefixStore("missing", store), rank, ranks, limit_s, error)) from error
    finally:
        _close()


def _let_go(error: BaseException) -> None:
    """Close the group, which the places in the code that ``error`` came through hold on to.

    Ranks that wait for this one then know at once that it is gone, and not when it has ended.
    """
    each: BaseException | None = error
    while each is not None:
        traceback.clear_frames(each.__traceback__)
        each = each.__context__
    _close()


def _close() -> None:
    gc.collect()  # what holds the group in a cycle would keep its threads alive into the interpreter's end
    with suppress(RuntimeError):
        if dist.is_initialized():
            dist.destroy_process_group()


def _backend(job: JobConfig, store: Store, rank: int, ranks: int) -> str:
    """What moves tensors between the ranks. Raises ConfigError, on all ranks, where one lacks its device."""
    device, fault = CPU, ""
    try:
        device = device_of(job.train.device)
    except ConfigError as error:
        fault = str(error)
    store.set(str(rank), f"{job.train.device}\n{fault}")
    store.wait([str(each) for each in range(ranks)], timedelta(seconds=job.sharding.timeout_s))
    for each in range(ranks):
        theirs, _, said = store.get(str(each)).decode().partition("\n")
        if said:
            raise ConfigError(f"rank {each}: {said}")
        if theirs != job.train.device:
            raise ConfigError(
                f"rank {each} differs from rank {rank}: job: train.device is {theirs!r}, not {job.train.device!r}. "
                f"Start every rank with one job file"
            )
    return backend_of(device)


def check_same(job: JobConfig) -> None:
    """Raise ConfigError, on every rank, naming the first that differs from rank 0, and in what. Collective.

    Where rows lie in memory may differ, and how long a rank waits.
    """
    mine = {
        "the package's version": metadata.version("monolith-recsys"),
        "torch": str(torch.__version__),
        "the machine": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "the device": kind_of_device(device_of(job.train.device)),
    }
    mine |= {f"job: {key}": value for key, value in flat(msgspec.json.decode(job_json(job))).items() if _counts(key)}
    everyones: list[dict[str, object]] = [{}] * dist.get_world_size()
    dist.all_gather_object(everyones, mine)
    for rank, theirs in enumerate(everyones):
        differing = [key for key in {**everyones[0], **theirs} if everyones[0].get(key) != theirs.get(key)]
        if differing:
            said = "; ".join(f"{key} is {theirs.get(key)!r}, not {everyones[0].get(key)!r}" for key in differing[:4])
            more = f"; and {len(differing) - 4} more" if len(differing) > 4 else ""
            raise ConfigError(
                f"rank {rank} differs from rank 0: {said}{more}. Start every rank with one job file, one version of "
                f"the package, on machines of one kind"
            )


def _counts(key: str) -> bool:
    return ".memory" not in key and key != "sharding.timeout_s"


def is_of_the_group(error: RuntimeError) -> bool:
    """Whether it says that another rank does not answer, rather than that something is wrong here."""
    return isinstance(error, dist.DistError) or any(word in str(error) for word in _WORDS)


def _absence(store: Store, rank: int, ranks: int, limit_s: float, error: RuntimeError) -> str:
    """Who is missing, in words."""
    missing, timed_out = _roll_call(store, rank, ranks, timed_out="imed out" in str(error) or "imeout" in str(error))
    if not missing and timed_out:
        return (
            f"rank {rank} waited {limit_s:g} s (sharding.timeout_s) in vain, though all ranks are there: one of them "
            f"was too slow. All end, and may start again; if it happens again, raise sharding.timeout_s "
            f"({_brief(error)})"
        )
    if not missing:
        return f"rank {rank} lost its connection to the others ({_brief(error)}); all end, and may start again"
    names = ", ".join(f"rank {each}" for each in sorted(missing))
    what = f"did not answer for {limit_s:g} s (sharding.timeout_s): hung, or too slow" if timed_out else "ended"
    return f"{names} {what}; rank {rank} ends as well. A new start goes on from the newest snapshot ({_brief(error)})"


def _roll_call(store: Store, rank: int, ranks: int, *, timed_out: bool) -> tuple[set[int], bool]:
    """The ranks that are missing, and whether any of the others timed out: each of those says so, and then ends."""
    missing, found = set(range(ranks)) - {rank}, {_TIMED_OUT if timed_out else _CUT_OFF}
    began, patience_s = time.monotonic(), _ROLL_CALL_S if timed_out else _ENDED_S
    with suppress(RuntimeError):  # the store is gone with the process that kept it
        store.set(str(rank), *found)
        while missing and time.monotonic() < began + patience_s:
            if here := {each for each in missing if store.check([str(each)])}:
                found |= {store.get(str(each)).decode() for each in here}
                missing -= here
            if len(missing) == 1 and not timed_out:
                patience_s = min(patience_s, _LAST_S)
            time.sleep(_POLL_S)
    return missing, _TIMED_OUT in found


def _brief(error: RuntimeError) -> str:
    """What torch says, without the place in its code and without advice."""
    return re.sub(r"^\[\S+\] ", "", str(error).partition(". ")[0].partition("\n")[0])
