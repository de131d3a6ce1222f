"""What goes wrong between a client and a server, as one tree under the package's own (`monolith.errors`).

::

    MonolithError
    ├── ConfigError            a server's URL, token or certificate cannot be
    ├── InputError
    │   └── RefusedError       the server refused the question: a name, value or form that it does not take (4xx)
    │       ├── TooLargeError      more rows, values or bytes than the server's settings allow (413)
    │       └── UnauthorizedError  no token, or none that the server knows (401)
    ├── UnavailableError       after all tries, on all servers
    │   ├── BusyError              a server has no model yet, or as much to do as it may have (503)
    │   ├── TimedOutError          no answer came in time (or 408, 504)
    │   └── UnreachableError       no connection came about, or the connection was lost
    └── CorruptError
        └── BrokenAnswerError  what came back is no answer of `monolith serve`

`Client` and `AsyncClient` raise them; TooLargeError and BusyError are what a server's own code raises, too.
"""

from __future__ import annotations

from monolith.errors import CorruptError, InputError, UnavailableError


class RefusedError(InputError):
    """The server understood the question and refused it. Nothing was changed; asking again does not help."""

    status = 400  # of HTTP


class TooLargeError(RefusedError):
    """A request asks for more than the server's settings allow: split it."""

    status = 413


class UnauthorizedError(RefusedError):
    """The server wants a bearer token, and was sent none, or one that it does not know."""

    status = 401


class BusyError(UnavailableError):
    """The server has no model yet, or as much to do as it may have; nothing was done for this request."""


class TimedOutError(UnavailableError):
    """No answer came in time."""


class UnreachableError(UnavailableError):
    """No connection came about, or the connection was lost before the answer."""


class BrokenAnswerError(CorruptError):
    """What came back is no answer of `monolith serve`: another server, or a proxy, answered."""
