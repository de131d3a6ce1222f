"""Lines of a data set's files that cannot be used: counted, named, and a reason to stop where they are many."""

from __future__ import annotations

from pathlib import Path

from monolith.echo import shown
from monolith.errors import RejectedError

EXAMPLES = 5
_EARLY = 1000  # so many broken lines stop a reader before the end


class Lines:
    """Counts lines, and raises RejectedError once more than ``most`` of them, a share, are broken."""

    def __init__(self, most: float = 0.001) -> None:
        self.most = most
        self.good = 0
        self.broken = 0
        self.examples: list[str] = []

    def take(self, good: int) -> None:
        """Count ``good`` lines that can be used, and stop where far too many could not."""
        self.good += good
        if self.broken > _EARLY:
            self.check()

    def reject_more(self, count: int) -> None:
        """Count ``count`` lines that cannot be used, behind those that were named."""
        self.broken += count

    def reject(self, file: Path, number: int | None, reason: str) -> None:
        """Count a line, ``number`` from 1 on, that cannot be used."""
        self.broken += 1
        if len(self.examples) < EXAMPLES:
            place = file.name if number is None else f"{file.name}:{number}"
            self.examples.append(f"{place}: {reason}")

    def hopeless(self, seen: int) -> bool:
        """Whether so many of the first ``seen`` lines are broken that a reader stops before the end."""
        return self.broken > _EARLY and self.broken > self.most * seen

    def check(self, seen: int | None = None) -> None:
        """Raise RejectedError where too large a share is broken, of ``seen`` lines or of those that were counted."""
        seen = seen or self.good + self.broken
        if self.broken > self.most * seen:
            raise RejectedError(
                f"{self.broken:,} of {seen:,} lines are broken, {self.broken / seen:.2%}; allowed are {self.most:.2%}. "
                f"{self.said()}. Look at the file, or allow more by --max-broken"
            )

    def said(self) -> str:
        """The first broken lines, in words; empty if there is none."""
        more = f"; and {self.broken - len(self.examples):,} more" if self.broken > len(self.examples) else ""
        return "; ".join(self.examples) + more


WHOLE = range(-(2**63), 2**63)  # what a column of integers holds


def cell(value: object) -> str:
    """A value of a broken line as a message shows it."""
    return shown(value)
