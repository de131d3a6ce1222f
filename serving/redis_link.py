"""The connection to Redis: names of keys, time-outs, and its errors in our words.

Keys of model M all begin with ``{M}:`` (the braces keep a model in one slot of a cluster):

``head card graph dense next_card next_graph log_index``  strings, sealed as in LMDB
``beat``               a string, sealed: when the trainer was last heard of while it published nothing
``rows:TABLE``         a hash: the row's key -> the row
``log``                a stream: entry ``SEQUENCE-0`` with one field ``delta``, the encoded delta
``pulse``              a stream of one small entry, renewed by every write: what followers wait on
``stage:OWNER:TABLE``  rows of an image on their way in; they expire if nobody finishes it
``stage:ATTEMPT``, ``attempt``  parts of a delta on their way in (``redis_staging``); likewise
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis
from redis import exceptions
from redis.backoff import NoBackoff
from redis.retry import Retry

from monolith.errors import CorruptError, CredentialsError, UnavailableError
from monolith.tls import Tls

CONNECT_TIMEOUT_S = 1.0
HEADS = "{*}:head"  # the keys of all models' heads, as Redis matches them
MODEL_OF_HEAD = re.compile(rb"\{([^{}]+)\}:head")


class Keys:
    """The names under which one model lives."""

    def __init__(self, model: str) -> None:
        self._prefix = f"{{{model}}}:"

    def of(self, part: str) -> str:
        """The key of a single part, such as ``head``."""
        return self._prefix + part

    def rows(self, table: str) -> str:
        """The key of a table's hash."""
        return f"{self._prefix}rows:{table}"

    def stage(self, owner: str, table: str) -> str:
        """The key under which ``owner`` gathers a table's image."""
        return f"{self._prefix}stage:{owner}:{table}"


def connect(address: str, timeout_s: float, tls: Tls | None = None) -> Any:
    """A client that connects on first use. One silent retry, for a connection that died while it idled.

    (Any: redis-py types every answer as bytes or str, whichever the client was made for.)
    """
    return redis.Redis.from_url(
        address,
        socket_timeout=timeout_s,
        socket_connect_timeout=min(timeout_s, CONNECT_TIMEOUT_S),
        retry=Retry(NoBackoff(), 1),
        retry_on_error=[exceptions.ConnectionError],
        **_secured(tls),
    )


def _secured(tls: Tls | None) -> dict[str, Any]:
    if tls is None:
        return {}
    return {
        "ssl_ca_certs": tls.ca,
        "ssl_certfile": tls.certificate,
        "ssl_keyfile": tls.key,
        "ssl_check_hostname": tls.check_hostname,
        "ssl_min_version": ssl.TLSVersion.TLSv1_2,
    }


@contextmanager
def translated(where: str) -> Iterator[None]:
    """Redis's errors as ours."""
    try:
        yield
    except (exceptions.AuthenticationError, exceptions.NoPermissionError) as error:
        raise CredentialsError(
            f"{where} refuses this user ({error}): correct the user and password in the URL"
        ) from error
    except exceptions.OutOfMemoryError as error:
        raise UnavailableError(
            f"{where} is out of memory ({error}): raise its maxmemory; nothing was written"
        ) from error
    except exceptions.ResponseError as error:
        if str(error).startswith("WRONGTYPE"):
            raise CorruptError(f"{where} has a key of another kind ({error}): use an empty database") from error
        raise UnavailableError(f"{where} refuses a command ({error}): see the server's log") from error
    except (exceptions.RedisError, OSError, UnicodeError) as error:  # the last for a name that no host can have
        raise UnavailableError(
            f"{where} does not answer ({error}): is the server running, is the URL right?"
        ) from error
