"""How a benchmark ran: part of what it leaves, since a figure without it says little."""

from __future__ import annotations

import os
import platform
import shlex
import sys
import time
from pathlib import Path


def how_it_ran() -> dict[str, str | float]:
    """The command, when it ended (UTC), the programs that wanted a core in the last minute, and the machine."""
    return {
        "command": shlex.join(["monolith", *sys.argv[1:]]),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "load": os.getloadavg()[0],
        "machine": machine(),
    }


def machine() -> str:
    """Processor, cores and versions, in a line."""
    import numpy as np
    import torch

    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    processor = names[0] if names else platform.machine()
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, numpy {np.__version__}"
    return f"{processor}, {os.cpu_count()} cores; {versions}"
