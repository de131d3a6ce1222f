"""The processes of a job on several of them, from outside. Linux."""

from __future__ import annotations

from pathlib import Path


def pids_of(path: Path) -> dict[int, int]:
    """The processes that are ranks of the job ``path``, by rank."""
    found = {}
    for folder in Path("/proc").iterdir():
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            variables = dict(each.partition(b"=")[::2] for each in (folder / "environ").read_bytes().split(b"\0"))
        except OSError:
            continue
        if str(path).encode() in words and b"TORCHELASTIC_RUN_ID" in variables:
            found[int(variables[b"RANK"])] = int(folder.name)
    return found
