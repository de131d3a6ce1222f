"""Work in pieces: a generator that may rest at every ``yield`` and returns what it makes.

Whoever runs it decides how long it rests: a caller in the same process not at all, a server while others are in line.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TypeVar, cast

_T = TypeVar("_T")

Pieces = Generator[None, None, _T]


def finished(work: Pieces[_T]) -> _T:
    """What ``work`` makes, at one go."""
    try:
        while True:
            next(work)
    except StopIteration as end:
        return cast(_T, end.value)


def at_once(make: Callable[[], _T]) -> Pieces[_T]:
    """Work of a single piece."""
    yield from ()
    return make()
