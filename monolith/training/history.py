"""What every published sequence was made from, as a chain of digests.

A sequence number alone does not say what was published under it: a state folder that is restored from a backup runs on
over the same numbers with other steps. The digest after a step is a hash of the digest before it, of what the step was
made from (its journal entry and its records) and of what decides a step's bits besides (settings, torch). A sequence
has the digest of the step that it was cut after. So two runs that published one sequence under one digest published the
same bits, and a store that names the digest of what it holds proves whether it holds what this trainer made.
"""

from __future__ import annotations

import platform

import msgspec
import xxhash

from monolith.config.deciding import Settings, flat_json
from monolith.errors import CorruptError, VersionError

HISTORY_VERSION = 1
KEPT = 4096  # newest sequences: as many as tables keep tombstones of; a store of an older one needs an image
_BYTES = 16


class _State(msgspec.Struct, array_like=True):
    version: int
    chain: bytes  # after the last step
    sequence: int  # the newest that was cut
    digests: bytes  # of the newest sequences, oldest first


class History:
    """The chain of one run. Owned by the trainer's thread."""

    def __init__(self, settings: Settings, division: str = "") -> None:
        """Stand before the first step; ``settings`` are those that decide bits, as they stand in the step journal.

        ``division`` says how the work is divided between processes, where the bits depend on that.
        """
        self.sequence = 0  # the newest that was cut
        self._reach = 0
        self._deciding = _what_decides(settings, division)
        self._chain = xxhash.xxh3_128_digest(b"before the first step")
        self._digests = b""

    @property
    def reach(self) -> int:
        """The newest sequence that was made, or will be made again from the step journal."""
        return max(self.sequence, self._reach)

    def expect(self, publishes: int) -> None:
        """``publishes`` journalled steps that are still to be run again will publish."""
        self._reach = self.sequence + publishes

    def extend(self, step_digest: bytes) -> None:
        """A step was made."""
        self._chain = xxhash.xxh3_128_digest(self._chain + self._deciding + step_digest)

    def cut(self, sequence: int) -> None:
        """``sequence`` ends after the newest step."""
        self.sequence = sequence
        self._digests = (self._digests + self._chain)[-KEPT * _BYTES :]

    def digest(self, sequence: int) -> str | None:
        """What ``sequence`` was made from, in hexadecimal digits; None where it is not made yet, or too long ago."""
        end = len(self._digests) - (self.sequence - sequence) * _BYTES
        return self._digests[end - _BYTES : end].hex() if _BYTES <= end <= len(self._digests) else None

    def state(self) -> bytes:
        """What `restore` needs. The same history gives the same bytes."""
        return msgspec.msgpack.encode(_State(HISTORY_VERSION, self._chain, self.sequence, self._digests))

    def restore(self, data: bytes, where: str) -> None:
        """Be what `state` gave ``data``. Raises VersionError and CorruptError, naming ``where``."""
        state = _decode(data, where)
        self._chain, self.sequence, self._digests = state.chain, state.sequence, state.digests

    def begin_after(self, sequence: int, unknown: bytes) -> None:
        """Begin a chain behind a state that has none; ``unknown`` names it. No store can prove what it holds then."""
        self._chain, self.sequence, self._digests = xxhash.xxh3_128_digest(unknown), sequence, b""


def newest_digest(data: bytes, where: str) -> str:
    """That of the newest sequence in the bytes of a history; empty where it has none. Raises as `History.restore`."""
    return _decode(data, where).digests[-_BYTES:].hex()


def _decode(data: bytes, where: str) -> _State:
    try:
        version = msgspec.msgpack.decode(data)[0]
        if version != HISTORY_VERSION:
            raise VersionError(f"{where} has version {version!r}, this build reads {HISTORY_VERSION}")
        return msgspec.msgpack.decode(data, type=_State)
    except (msgspec.DecodeError, TypeError, IndexError, KeyError) as error:
        raise CorruptError(f"{where} cannot be read: {error}") from None


def _what_decides(settings: Settings, division: str) -> bytes:
    """16 bytes that differ where the same records would make other bits."""
    import torch  # here: who only reads a digest from a snapshot need not wait for it

    build = [
        str(torch.__version__),
        torch.backends.cpu.get_cpu_capability(),
        platform.machine(),
        *([division] if division else []),
    ]
    return xxhash.xxh3_128_digest(flat_json(settings) + msgspec.json.encode(build))
