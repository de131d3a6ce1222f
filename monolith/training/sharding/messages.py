"""Numbers of both kinds in one message: float32 beside int64, two in the place of one."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


class MessageReader:
    """Reads a message (n,) int64 from front to back."""

    def __init__(self, message: Ints) -> None:
        self._message, self._at = message, 0

    @property
    def at_end(self) -> bool:
        """Whether all of it was read."""
        return self._at >= len(self._message)

    def ints(self, size: int) -> Ints:
        """The next ``size`` integers."""
        self._at += size
        return self._message[self._at - size : self._at]

    def floats(self, size: int) -> Floats:
        """The next ``size`` floats, as `as_ints` put them there."""
        return self.ints(-(-size // 2)).view(np.float32)[:size]


def as_ints(floats: Floats) -> Ints:
    """Any number of floats, with a 0 behind an odd number of them."""
    flat = floats.reshape(-1)
    return np.concatenate([flat, np.zeros(len(flat) % 2, np.float32)]).view(np.int64)
