"""Times on the command line."""

from __future__ import annotations

from datetime import UTC, datetime

from monolith.errors import ConfigError
from monolith.streaming.between import Between


def between(from_text: str | None, until_text: str | None) -> Between:
    """The part of the streams from one time to another. Raises ConfigError for what is no time, or ends too early."""
    begin, end = (None if text is None else moment_ms(text) for text in (from_text, until_text))
    if begin is not None and end is not None and begin >= end:
        raise ConfigError(f"--from {from_text} is not before --until {until_text}")
    return Between(begin, end)


def moment_ms(text: str) -> int:
    """Ms since the epoch: a number, or a date with or without time in ISO 8601; without a zone in UTC."""
    if text.lstrip("-").isdecimal():
        return int(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"{text!r} is no time: give ms since the epoch, or 2026-11-27 or 2026-11-27T09:30") from None
    return round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)
