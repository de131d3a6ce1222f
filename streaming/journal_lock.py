"""The lock of a step journal's folder: one trainer writes there."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from monolith.disk import make_folder, remedy
from monolith.errors import ConfigError


def locked(folder: Path) -> BinaryIO:
    """An exclusive lock on ``folder``, which is made, held while the file is open and gone with the process.

    Raises ConfigError where another process has it, or the folder cannot be made.
    """
    try:
        make_folder(folder)
        file = (folder / "lock").open("a+b")
    except OSError as error:
        raise ConfigError(f"cannot make the step journal {folder}: {error}; {remedy(error)}") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise _in_use(folder, file) from None
    if os.fstat(file.fileno()).st_nlink == 0:  # `journal.held` took the file away between the two calls above
        raise _in_use(folder, file)
    _sign(file)
    return file


def _in_use(folder: Path, file: BinaryIO) -> ConfigError:
    file.seek(0)
    holder = file.read().decode(errors="replace") or "unknown"
    file.close()
    return ConfigError(
        f"the step journal {folder} is in use by process {holder}: a state folder belongs to one trainer; "
        f"stop that one, or give this job another `state`"
    )


def _sign(file: BinaryIO) -> None:
    """Leave the process id for people. The lock is held without it, so a full disk does not matter here."""
    with suppress(OSError):
        file.truncate(0)
        os.write(file.fileno(), str(os.getpid()).encode())


def is_in_place(file: BinaryIO) -> bool:
    """Whether an open file is still the one under its name."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(file.name))
    except OSError:
        return False
