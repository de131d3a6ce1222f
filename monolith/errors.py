"""Every error this system raises on purpose, as one tree.

::

    MonolithError
    ├── ConfigError          a job file, a URL or an option says something that cannot be
    │   └── CredentialsError a server refuses its user
    ├── InputError           an argument has the wrong dtype, shape or value; nothing was changed
    │   ├── NonFiniteError   a gradient holds NaN, infinity or too large a size, and the policy is ``raise``
    │   └── EventError       an event cannot be decoded or breaks a rule; it goes to the dead letters
    ├── CorruptError         bytes on disk or on the wire fail their check; the message names the place
    │   └── VersionError     the bytes are of a format version this build does not read
    ├── RejectedError        too large a share of a stream's records cannot be used
    ├── NoSamplesError       the streams ended, and no sample was made of them
    ├── DataLossError        the stream no longer holds an offset that is needed
    ├── UnavailableError     a broker, a store, a server or a disk does not answer; trying again may help
    ├── DurabilityError      what was written may not be on the disk; this process must end, a restart goes on
    ├── FencedError          another trainer took over the model; this one must stop
    └── GapError             a delta does not follow on what the store or replica holds

An error's text says what failed, what was seen, what is allowed, where, and what to do next.
"""

from __future__ import annotations

from monolith.echo import clipped


class MonolithError(Exception):
    """The root: catch it to catch everything this package raises on purpose."""


class ConfigError(MonolithError):
    """A job file, a URL or an option says something that cannot be."""


class CredentialsError(ConfigError):
    """A server refuses its user: at the start the URL is wrong, later perhaps the server, and then for a while."""


class InputError(MonolithError, ValueError):
    """An argument has the wrong dtype, shape or value. Nothing was changed."""


class NonFiniteError(InputError):
    """A gradient holds NaN, infinity or a size that its optimizer does not bear; the policy is ``raise``."""


class EventError(InputError):
    """An event cannot be decoded or breaks a rule.

    ``reason`` is a short word for the dead letter and the metric, ``detail`` is for people, one line that is not long.
    """

    def __init__(self, reason: str, detail: str) -> None:
        self.reason = reason
        self.detail = clipped(detail)
        super().__init__(f"{reason}: {self.detail}")


class CorruptError(MonolithError):
    """Bytes on disk or on the wire fail their check. The message names the file, offset or key."""


class VersionError(CorruptError):
    """The bytes are of a format version this build does not read."""


class RejectedError(MonolithError):
    """Too large a share of a stream's records cannot be used, by ``input.max_reject_share``."""


class NoSamplesError(MonolithError):
    """The streams ended and no sample was made of them: nothing was learnt, and nothing is published."""


class DataLossError(MonolithError):
    """The stream no longer holds an offset that is needed (retention, a deleted topic)."""


class UnavailableError(MonolithError):
    """A broker, a store, a server or a disk does not answer. Trying again may help."""


class DurabilityError(MonolithError):
    """A disk failed to keep what was written. This process must end; a restart goes on from what the disk has."""


class FencedError(MonolithError):
    """A newer trainer took over the model; the store refused this one's generation."""


class GapError(MonolithError):
    """A delta does not follow on what the store or replica holds; a resync from the full image is needed."""
