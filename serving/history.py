"""Whether a store holds what this trainer made: the same sequence from the same steps, or only the same number.

A trainer that was restored from an older backup runs on over numbers that the store knows, with other steps; so does
one whose pending steps lost records (`on_data_loss: skip`) or were run again with other settings. Then the store's rows
are another history's, and no delta of this trainer fits on them.
"""

from __future__ import annotations

from typing import Protocol

from monolith.serving.ledger import Held


class History(Protocol):
    """What a trainer's sequences were made from; `training.history.History` is one."""

    @property
    def sequence(self) -> int:
        """The newest that was made."""

    @property
    def reach(self) -> int:
        """The newest that was made, or will be made again from the step journal."""

    def digest(self, sequence: int) -> str | None:
        """Names what ``sequence`` was made from; None where it is not made yet, or too long ago."""


def is_awaited(held: Held, history: History | None) -> bool:
    """Whether the store is ahead of the trainer, but not of what the step journal will make again."""
    if history is None:
        return False
    return history.digest(held.sequence) is None and history.sequence < held.sequence <= history.reach


def difference(held: Held, history: History | None, where: str) -> str | None:
    """Why the store's sequence is not this trainer's, or cannot be told to be; None if it is, or has yet to be made.

    A trainer without a history believes the number.
    """
    if held.sequence and held.fault:
        return held.fault
    if history is None or not held.sequence or is_awaited(held, history):
        return None
    made = history.digest(held.sequence)
    if made == held.digest:
        return None
    holds = f"{where} holds sequence {held.sequence}"
    if held.sequence > history.reach:
        return (
            f"{holds}, the step journal ends at sequence {history.reach}: the state folder is older than the store, "
            f"or a part of the journal was lost"
        )
    if made is None:
        return f"{holds}, too long ago to tell whether this trainer made it"
    if not held.digest:
        return f"{holds} of a build that did not write what it was made from"
    return (
        f"{holds} made from other steps than this trainer's: the state folder was restored from a backup, or steps "
        f"were run again with other records or settings"
    )
