"""Pieces of a binary body, each padded with zeros to a multiple of 8 bytes, read with every length checked first."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

ALIGN = 8


class ShortError(ValueError):
    """A length in the body asks for more than the body holds, or for less."""


def aligned(pieces: Iterable[bytes]) -> bytes:
    """The pieces, each with its padding."""
    return b"".join(piece + bytes(-len(piece) % ALIGN) for piece in pieces)


class Aligned:
    """Takes one piece after the other, never past the end. Raises ShortError."""

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)
        self._at = 0

    def take(self, length: int, what: str) -> memoryview:
        """The next ``length`` bytes."""
        left = len(self._data) - self._at
        if length > left:
            raise ShortError(f"{what} takes {length} bytes, {left} are left")
        piece = self._data[self._at : self._at + length]
        self._at += length + -length % ALIGN
        return piece

    def numbers(self, layout: struct.Struct, what: str) -> tuple[Any, ...]:
        """What ``layout`` says."""
        return layout.unpack(self.take(layout.size, what))

    def array(self, kind: str, count: int, what: str) -> npt.NDArray[Any]:
        """``count`` numbers of dtype ``kind``; a read-only view."""
        return np.frombuffer(self.take(count * np.dtype(kind).itemsize, what), kind)

    def text(self, length: int, what: str) -> str:
        """UTF-8."""
        try:
            return bytes(self.take(length, what)).decode()
        except UnicodeDecodeError as error:
            raise ShortError(f"{what} is not UTF-8: {error}") from error

    def finish(self) -> None:
        """That was all of the body."""
        if self._at < len(self._data):
            raise ShortError(f"the body has {len(self._data)} bytes, its parts end at {self._at}")
