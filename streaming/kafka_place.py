"""What a ``kafka://`` URL says: the brokers, the topic, and how a client makes itself known to them.

``kafka://[USER:PASSWORD@]HOST:PORT[,HOST:PORT]/TOPIC``, where characters of user and password that mean something in a
URL are percent-encoded (a reference, ``${KAFKA_PASSWORD}``, needs no care). Options for security, in Kafka's words:

``security_protocol``  ``PLAINTEXT`` (without a user), ``SASL_SSL`` (with one), ``SSL``, ``SASL_PLAINTEXT``
``sasl_mechanism``     ``PLAIN`` (as without it), ``SCRAM-SHA-256``, ``SCRAM-SHA-512``
``tls_ca`` ...         see `monolith.tls`
"""

from __future__ import annotations

import logging
import re
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import unquote

from kafka.errors import KafkaError, KafkaTimeoutError

from monolith.errors import ConfigError
from monolith.streaming.source import StreamUrl
from monolith.tls import TLS_OPTIONS, tls_of

TOPIC_OPTIONS = ("partitions", "replication", "retention_ms")  # of a topic to be made
SECURITY_OPTIONS = ("security_protocol", "sasl_mechanism", *TLS_OPTIONS)
RECONNECT_MS = 1000  # kafka-python lets it grow to 30 s, and a client is then half a minute late
BOOTSTRAP_MS = 2000
REQUEST_MS = 10_000

_OPEN = ("PLAINTEXT", "SSL")
_WITH_USER = ("SASL_SSL", "SASL_PLAINTEXT")
_MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")


@dataclass(frozen=True, slots=True)
class KafkaPlace:
    """Brokers and topic."""

    servers: list[str]
    topic: str
    # kafka-python's settings, a password among them
    security: dict[str, object] = field(default_factory=dict, repr=False)

    def connection(self) -> dict[str, object]:
        """Settings that every client of ours has in common."""
        return {
            "bootstrap_servers": self.servers,
            "bootstrap_timeout_ms": BOOTSTRAP_MS,
            "reconnect_backoff_max_ms": RECONNECT_MS,
            "request_timeout_ms": REQUEST_MS,
            **self.security,
        }


def place_of(url: StreamUrl) -> KafkaPlace:
    """Raises ConfigError for a URL or options that cannot be, and for files of TLS that cannot be used."""
    url.check_options((*TOPIC_OPTIONS, *SECURITY_OPTIONS))
    user, found, rest = url.place.rpartition("@")
    servers, _, topic = rest.partition("/")
    if not servers or not topic or "/" in topic:
        raise ConfigError(f"{url.text}: write kafka://HOST:PORT/TOPIC, or kafka://USER:PASSWORD@HOST:PORT/TOPIC")
    return KafkaPlace(servers.split(","), topic, _security(url, user if found else None))


def _security(url: StreamUrl, user: str | None) -> dict[str, object]:
    protocol = url.choice("security_protocol", _OPEN + _WITH_USER if user is None else _WITH_USER + _OPEN)
    if (user is None) != (protocol in _OPEN):
        needs = "no user is allowed with it" if user is not None else "it needs kafka://USER:PASSWORD@HOST:PORT/TOPIC"
        raise ConfigError(f"{url.text}: security_protocol is {protocol}, and {needs}")
    settings: dict[str, object] = {"security_protocol": protocol}
    if user is not None:
        name, found, password = user.partition(":")
        if not name or not found:
            raise ConfigError(f"{url.text}: a user needs a name and a password: kafka://USER:PASSWORD@HOST:PORT/TOPIC")
        settings["sasl_mechanism"] = url.choice("sasl_mechanism", _MECHANISMS)
        settings |= {"sasl_plain_username": unquote(name), "sasl_plain_password": unquote(password)}
    elif "sasl_mechanism" in url.options:
        raise ConfigError(f"{url.text}: sasl_mechanism is for a user: kafka://USER:PASSWORD@HOST:PORT/TOPIC")
    if protocol.endswith("SSL"):
        settings["ssl_context"] = tls_of(url.options, url.name).context()
    elif given := [option for option in TLS_OPTIONS if option in url.options]:
        raise ConfigError(f"{url.text}: {given[0]} is for TLS: set security_protocol to SSL or SASL_SSL")
    return settings


@contextmanager
def in_words(place: KafkaPlace) -> Iterator[None]:
    """Around what may connect: a refusal that no waiting mends becomes a ConfigError. Other errors pass."""
    _reasons.texts.clear()
    try:
        yield
    except KafkaError as error:
        said = [repr(error), *_reasons.texts]
        for sign, what, remedy in _REFUSALS:
            for text in said:
                if sign in text:
                    raise ConfigError(f"{', '.join(place.servers)}: {what} ({text}); {remedy}") from error
        raise


def reason_of(error: KafkaError) -> str:
    """Why a client did not get through, in Kafka's words."""
    timed_out = isinstance(error, KafkaTimeoutError) and _reasons.texts
    return _reasons.texts[-1] if timed_out else repr(error)


_REFUSALS = (
    ("SaslAuthenticationFailed", "the broker refuses this user", "correct user, password or sasl_mechanism in the URL"),
    ("UnsupportedSaslMechanism", "the broker does not take this sasl_mechanism", "give one that it takes"),
    ("IllegalSaslState", "the broker takes no user on this port", "correct the port or security_protocol"),
    ("CERTIFICATE_VERIFY_FAILED", "the broker's certificate is not trusted", "correct tls_ca or the broker's name"),
    ("InvalidReceive", "what answers here does not speak Kafka without TLS", "correct the port or security_protocol"),
    ("WRONG_VERSION_NUMBER", "what answers here does not speak TLS", "correct the port or security_protocol"),
    ("_ALERT_", "the broker refuses the certificate, or wants one", "give tls_certificate and tls_key that it takes"),
)


class _Reasons(logging.Handler):
    """Why connections failed of late: kafka-python raises no more than that it timed out, but logs the reasons."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: deque[str] = deque(maxlen=16)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the reason of a failed connection."""
        if (failed := _FAILED.match(record.getMessage())) is not None:
            self.texts.append(failed[1])


_FAILED = re.compile(r"Bootstrap (?:connection|attempt) to \S+ failed: (.*) \(backoff")

# kafka-python logs every refused connection, at warning and error level; `Waiting` says it in one line in ten seconds.
logging.getLogger("kafka").setLevel(logging.CRITICAL)
_reasons = _Reasons()
_connections = logging.getLogger("kafka.net.manager")
_connections.setLevel(logging.WARNING)
_connections.propagate = False
_connections.addHandler(_reasons)
