"""What a forked child must not share with its parent: LMDB environments, connections, locks that a thread holds.

Only the thread that forks goes on in the child, and whatever another thread had in hand stays half done there.
``ForkGate`` makes a fork wait until nothing is in hand, and ``in_child`` names what the child makes anew. (Processes
that begin with ``spawn`` or ``exec``, as those of ``subprocess`` do, share nothing and are not concerned.)
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from types import TracebackType

WAIT_S = 1.0  # longest wait of a fork for the work in a gate; an LMDB transaction mostly takes milliseconds

_gates: weakref.WeakSet[ForkGate] = weakref.WeakSet()
_renewals: list[weakref.WeakMethod[Callable[[], None]]] = []


class ForkGate:
    """Work that a fork should not cut in two: ``with gate: ...``. Any thread may enter, any number at a time."""

    def __init__(self, renew: Callable[[bool], None]) -> None:
        """``renew`` is called in a forked child: True if nothing was in hand. A bound method, held weakly."""
        self._renew = weakref.WeakMethod(renew)
        self._forking = False
        self._open_again()
        _gates.add(self)

    def __enter__(self) -> None:
        with self._changed:
            while self._forking:
                self._changed.wait()
            self._inside += 1

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self._changed:
            self._inside -= 1
            self._changed.notify_all()

    def _open_again(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0

    def before_fork(self) -> None:
        """Let nobody in, and wait for those who are."""
        with self._changed:
            self._forking = True
            self._changed.wait_for(lambda: self._inside == 0, WAIT_S)

    def in_parent(self) -> None:
        """All goes on."""
        with self._changed:
            self._forking = False
            self._changed.notify_all()

    def in_child(self) -> None:
        """Nobody is inside any more."""
        quiet, self._forking = self._inside == 0, False
        self._open_again()
        if (renew := self._renew()) is not None:
            renew(quiet)


def in_child(renew: Callable[[], None]) -> None:
    """Call ``renew``, a bound method that is held weakly, in every child that is forked from here on."""
    _renewals[:] = [known for known in _renewals if known() is not None]
    _renewals.append(weakref.WeakMethod(renew))


def _before() -> None:
    for gate in list(_gates):
        gate.before_fork()


def _in_parent() -> None:
    for gate in list(_gates):
        gate.in_parent()


def _in_child() -> None:
    for gate in list(_gates):
        gate.in_child()
    for known in list(_renewals):
        if (renew := known()) is not None:
            renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
