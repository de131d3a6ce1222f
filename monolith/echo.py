"""What an error repeats of somebody's data: enough to recognise it, and never more.

Events, bodies and files come from outside, and any part of them may be megabytes long. So no error, log line or dead
letter holds more of them than these functions give.
"""

from __future__ import annotations

import reprlib

MOST_SHOWN = 80  # characters of one value
MOST_TOLD = 600  # characters of a text that may hold several

_repr = reprlib.Repr()
_repr.maxlevel, _repr.maxlist, _repr.maxtuple, _repr.maxset, _repr.maxdict = 3, 6, 6, 6, 4
_repr.maxstring = _repr.maxother = _repr.maxlong = MOST_SHOWN


def shown(value: object) -> str:
    """As `repr`, in at most ``MOST_SHOWN`` characters, and without looking at more of ``value`` than is shown."""
    if isinstance(value, bytes | bytearray):
        value = value[:MOST_SHOWN]
    try:
        return clipped(_repr.repr(value), MOST_SHOWN)
    except ValueError:  # Python writes no integer of more than 4,300 digits
        return f"a very long {type(value).__name__}"


def clipped(text: str, most: int = MOST_TOLD) -> str:
    """Beginning and end of a longer ``text``, in one line: at most ``most`` characters."""
    if len(text) > most:
        tail = most // 4
        text = f"{text[: most - tail - 5]} ... {text[len(text) - tail :]}"
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)
