"""Runs a function of a module on W processes of one gloo group, and hands back what each returned.

As a script it is one of these processes: ``rank_runs.py MODULE FUNCTION FOLDER``, with the group in the environment.
"""

from __future__ import annotations

import gc
import importlib
import os
import pickle
import socket
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

_HERE = Path(__file__).parent
_DEADLINE_S = 240


def run(module: str, function: str, ranks: int, folder: Path, *, may_fail: bool = False) -> list[Any]:
    """``module.function(rank, folder)`` on each rank; raises AssertionError with a rank's output where one fails."""
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    group = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    started = []
    for rank in range(ranks):
        own = {**os.environ, **group, "RANK": str(rank), "LOCAL_RANK": str(rank), "PYTHONPATH": str(_HERE)}
        command = [sys.executable, __file__, module, function, str(folder)]
        out = (folder / f"rank{rank}.out").open("wb")
        started.append(subprocess.Popen(command, env=own, stdout=out, stderr=subprocess.STDOUT))
        out.close()
    try:
        codes = [process.wait(_DEADLINE_S) for process in started]
    finally:
        for process in started:
            if process.poll() is None:
                process.kill()
                process.wait()
    if any(codes) and not may_fail:
        said = "\n".join((folder / f"rank{rank}.out").read_text()[-3000:] for rank in range(ranks) if codes[rank])
        raise AssertionError(f"ranks ended with {codes}:\n{said}")
    return [pickle.loads((folder / f"rank{rank}.pickle").read_bytes()) for rank in range(ranks)]


def _one_rank() -> None:
    import torch
    import torch.distributed as dist

    from monolith.tables import set_threads

    module, function, folder = sys.argv[1:]
    torch.set_num_threads(1)
    set_threads(1)
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    rank = dist.get_rank()
    result = getattr(importlib.import_module(module), function)(rank, Path(folder))
    (Path(folder) / f"rank{rank}.pickle").write_bytes(pickle.dumps(result))
    # A DistributedDataParallel is a cycle that holds the group: left to the interpreter's end, the group's threads
    # live that long, and one of them that then asks for the interpreter's lock ends the process with an abort.
    gc.collect()
    dist.destroy_process_group()


if __name__ == "__main__":
    _one_rank()
