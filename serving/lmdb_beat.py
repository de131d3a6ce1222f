"""The file ``beat`` in the folder of an LMDB store: a sign of life from a trainer that has nothing to publish.

It is replaced as a whole and never synced: after a power cut nobody lives whom it could tell of.
"""

from __future__ import annotations

from pathlib import Path

from monolith.serving.lmdb_env import translated


class BeatFile:
    """One store's."""

    def __init__(self, directory: Path, where: str) -> None:
        self._path = directory / "beat"
        self._where = where

    def write(self, sealed: bytes) -> None:
        """Replace it. Raises UnavailableError where the folder is gone or takes nothing."""
        scratch = self._path.with_suffix(".tmp")
        with translated(self._where):
            scratch.write_bytes(sealed)
            scratch.replace(self._path)

    def read(self) -> bytes | None:
        """Its bytes, None where there is none. Raises UnavailableError where it cannot be read."""
        with translated(self._where):
            try:
                return self._path.read_bytes()
            except FileNotFoundError:
                return None
