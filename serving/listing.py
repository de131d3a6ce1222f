"""Which models a store holds: for people who have its URL and not yet a model's name."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlsplit

from monolith.errors import ConfigError, CorruptError, UnavailableError
from monolith.secrets import reveal_url
from monolith.serving.ledger import Version
from monolith.serving.store import open_store

_NONE = "none"  # a name for a Redis store that is only asked which names there are


@dataclass(frozen=True, slots=True)
class Listed:
    """One model of a store, as its head tells."""

    model: str
    version: Version = field(default_factory=Version)  # sequence 0: nothing is published yet
    rows: int = 0  # in all tables
    published_age_ms: float | None = None  # since the trainer handed the version over
    trainer_age_ms: float | None = None  # since the trainer was last heard of; None: never
    fault: str | None = None  # why the model cannot be served as it is


def models(url: str) -> list[Listed]:
    """The models of the store at ``url``, by name; a URL that names one lists that one alone.

    Raises ConfigError for a bad URL, UnavailableError where the store does not answer. A model whose head is damaged is
    in the list, with what is wrong.
    """
    return [_listed(url, name) for name in _names(url)]


def only_model(url: str) -> str:
    """The name of the one model in the store at ``url``.

    Raises UnavailableError where there is none yet, ConfigError, naming them, where there are several, and as `models`
    does.
    """
    names = _names(url)
    if len(names) == 1:
        return names[0]
    if not names:
        raise UnavailableError(f"{place(url)} holds no model yet: start a trainer, or name what to wait for (--model)")
    raise ConfigError(f"{place(url)} holds {len(names)} models, {', '.join(names)}: name one (--model {names[0]})")


def place(url: str) -> str:
    """The store's URL, without a password."""
    return open_store(url, _NONE, create=False).url


def _names(url: str) -> list[str]:
    parts = urlsplit(reveal_url(url))
    if parts.scheme not in ("redis", "rediss"):
        return _name_in_folder(url)
    if named := dict(parse_qsl(parts.query)).get("model"):
        return [named]
    from monolith.serving.redis_reader import RedisReader

    store = open_store(url, _NONE, create=False)
    assert isinstance(store, RedisReader)
    try:
        return store.model_names()
    finally:
        store.close()


def _name_in_folder(url: str) -> list[str]:
    """The model of an LMDB folder; none where a folder holds nothing yet, or there is none."""
    store = open_store(url, create=False)
    try:
        return [store.card().model] if store.version().sequence else []
    finally:
        store.close()


def _listed(url: str, name: str) -> Listed:
    store = open_store(url, name, create=False)
    try:
        look = store.look()
    except CorruptError as error:
        return Listed(name, fault=str(error))
    finally:
        store.close()
    now_ms, published_ms = time.time_ns() / 1e6, look.version.published_ms
    published, heard = (
        max(0.0, now_ms - then) if then > 0 else None for then in (published_ms, max(look.alive_ms, published_ms))
    )
    return Listed(name, look.version, look.rows, published, heard, look.fault)
