"""What a serving store does, and how its URL names one.

A store holds one model at one version: rows, dense weights, graph and card, all of which change together, and a log
of the newest deltas for those who follow. Writing is for the one trainer that took the store over last; reading is for
any number of processes, and every answer comes from one version.

``lmdb:///DIR`` (``lmdb://DIR`` is relative) is a folder for the processes of one machine; ``redis://HOST:PORT/DB`` is a
Redis server, ``rediss://`` one over TLS (`monolith.tls`), in which the model's name keeps several models apart.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

import numpy as np
import numpy.typing as npt

from monolith.card import ModelCard
from monolith.errors import ConfigError
from monolith.secrets import masked, reveal_url, scrubbed
from monolith.serving.ledger import Held, LogLimits, Look, Version
from monolith.serving.packed import PackedDelta, PackedTable
from monolith.serving.payload import Packed, RowFormat
from monolith.serving.staging import Receipt, Ticket
from monolith.serving.wire import PublishedDelta
from monolith.tables.delta import Delta, ModelDelta
from monolith.tls import TLS_OPTIONS, Tls, tls_of

Ids = npt.NDArray[np.int64]
Values = npt.NDArray[np.float32]
Found = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Model:
    """Everything of one version but the rows."""

    version: Version
    card: ModelCard
    graph: bytes  # ONNX; empty for a model without one
    dense: bytes  # safetensors of this version; empty for a model without any


@dataclass(frozen=True, slots=True)
class Image:
    """A whole version: ``delta`` has base 0 and every row."""

    model: Model
    delta: PackedDelta


def image_of(model: Model, tables: dict[str, PackedTable], payload: str) -> Image:
    """The image of ``model`` and its ``tables``' rows."""
    version, none = model.version, np.zeros(0, np.int64)
    delta = PackedDelta(0, version.sequence, version.step, version.watermark_ms, tables, model.dense, none, payload)
    return Image(model, delta)


@dataclass(frozen=True, slots=True)
class Reading:
    """Some rows of one version; absent ids have zeros and ``found`` False."""

    version: Version
    rows: dict[str, tuple[Values, Found]]  # table -> (n, dim), (n,)
    dense: bytes | None  # of this version, where it was asked for


class Store(Protocol):
    """One model's serving store. Any thread may call it.

    Every method may raise UnavailableError (down, full, no model in it yet: try again) and CorruptError (bytes in it
    fail their check: empty it and restart the trainer).
    """

    url: str  # as given, without a password

    @abstractmethod
    def take_over(self, card: ModelCard, graph: bytes = b"", generation: int | None = None) -> Held:
        """Become the only trainer that may write, at the store's generation plus one.

        ``card`` and ``graph`` become visible with the first delta that is applied, so that readers never see them
        with another model's rows. A card of the run ``RUN`` takes the revision ``RUN.REVISION`` that the store holds,
        if the cards are the same in all else: ``Held.lineage`` is what to publish under. ``Held.sequence`` is 0 where
        the store holds another card (lineage, tables, features, payload): the next delta must then be an image.
        ``generation`` claims exactly that one, for a trainer whose store lost its memory; FencedError where somebody
        else has it or a higher one.
        """

    @abstractmethod
    def apply(self, delta: ModelDelta, generation: int, lineage: str) -> bool:
        """Make ``delta``, its rows packed in the card's payload, visible in one atomic step.

        False: the store has it already, nothing changed.
        Raises FencedError (another trainer took over), GapError (it does not follow on what is held: make a wider
        one, or, where the store forgot this generation, take over again) and InputError; nothing changed then.
        """

    @abstractmethod
    def begin(self, base_sequence: int, sequence: int, parts: int, generation: int, lineage: str) -> Ticket | None:
        """Begin to hand in a delta in ``parts`` (``staging``); None: the store has it already.

        For whoever took the store over; the ticket goes to every process that stages a part. What an earlier attempt
        staged is removed, or expires within an hour, and is in no later delta. Raises as ``apply``.
        """

    @abstractmethod
    def stage(self, ticket: Ticket, part: int, tables: Mapping[str, Delta]) -> Receipt:
        """Hand in part ``part``, from 0 on: of every table the delta of some buckets. Nothing becomes visible.

        For any process, at any time beside the others. When it returns, the part is whole where whoever commits will
        look; staged again in the same attempt, it is replaced. Raises InputError for what is not of the ticket's delta;
        where another attempt began meanwhile, this or the commit raises UnavailableError.
        """

    @abstractmethod
    def commit(self, ticket: Ticket, receipts: Sequence[Receipt], delta: ModelDelta) -> bool:
        """Make a staged delta visible in one atomic step: afterwards the store is as after ``apply`` of the whole.

        ``delta`` says all but the rows; its tables are not read. False: the store has it already. Raises as ``apply``;
        InputError unless the receipts are of all parts, and of all buckets; and UnavailableError where a part is no
        longer as it was staged: begin again. Nothing changed then.
        """

    @abstractmethod
    def version(self) -> Version:
        """What is held; ``sequence == 0`` for an empty store."""

    @abstractmethod
    def look(self) -> Look:
        """What is held, what it was made from, whether its rows are all there, and when its trainer was last heard of.

        Cheap: for asking every second.
        """

    @abstractmethod
    def beat(self) -> None:
        """Say that the trainer lives which took the store over through this object. Cheap: for every second."""

    @abstractmethod
    def model(self) -> Model:
        """Card, graph and dense weights of one version."""

    @abstractmethod
    def image(self) -> Image:
        """Everything of one version."""

    @abstractmethod
    def read_together(self, requests: Mapping[str, Ids], *, dense: bool = False) -> Reading:
        """Rows of several tables, and the dense weights if asked for, of one version. InputError: no such table."""

    @abstractmethod
    def deltas(self, after: Version, timeout_s: float) -> list[PublishedDelta]:
        """The next deltas after a version, oldest first; waits up to ``timeout_s`` for the first, may return none.

        Raises GapError when they cannot lead on from ``after``: load the image.
        """

    @abstractmethod
    def packed_rows(self, table: str) -> Iterator[tuple[Ids, Packed, RowFormat]]:
        """All rows of a table as they lie there, in chunks (n,), (n, width) of one format, in no order.

        Of one version where nobody writes meanwhile.
        """

    @abstractmethod
    def close(self) -> None:
        """Let go of files and connections. The last call; doing it twice is harmless."""

    def card(self) -> ModelCard:
        """The model card of what is held."""
        return self.model().card

    def graph(self) -> bytes:
        """The ONNX graph of what is held, empty for a model without one."""
        return self.model().graph

    def rows(self, table: str) -> Iterator[tuple[Ids, Values]]:
        """All rows of a table in chunks (n,), (n, dim), as ``packed_rows`` has them."""
        for ids, packed, form in self.packed_rows(table):
            yield ids, form.unpack(packed)

    def read(self, table: str, ids: Ids) -> tuple[Values, Found]:
        """(n, dim) values, zeros for absent ids, and (n,) whether each was there."""
        return self.read_together({table: ids}).rows[table]


def scatter(ids: Ids, found: Found, present: Values) -> Values:
    """(n, dim) with the rows that were found in their places and zeros elsewhere."""
    values = np.zeros((len(ids), present.shape[1]), np.float32)
    values[found] = present
    return values


# --- URLs -------------------------------------------------------------------------------------------------------------

_OPTIONS = {"log_deltas", "log_mb"}
_REDIS_OPTIONS = _OPTIONS | {"model", "timeout_s"}
_REDISS_OPTIONS = _REDIS_OPTIONS | set(TLS_OPTIONS)
_ALLOWED = (
    "allowed are lmdb:///DIR (absolute) or lmdb://DIR (relative) with ?log_deltas=N&log_mb=N, "
    "redis://HOST:PORT/DB with ?model=NAME&log_deltas=N&log_mb=N&timeout_s=S, and rediss://HOST:PORT/DB, which is the "
    "same over TLS, with ?tls_ca=FILE&tls_certificate=FILE&tls_key=FILE&tls_hostname=ignore as well"
)


def open_store(url: str, model: str | None = None, *, create: bool = True) -> Store:
    """The store that ``url`` names. Nothing is connected yet, so it succeeds while a server is down.

    ``model`` is the model's name: the key prefix in Redis (``?model=`` says it too), a check in LMDB.
    ``create=False`` never makes a folder: reading from a missing one raises UnavailableError. References in ``url`` are
    replaced (`monolith.secrets`). Raises ConfigError for a URL that cannot be.
    """
    shown = masked(url)
    try:
        parts = urlsplit(reveal_url(url))
    except ValueError:  # half an IPv6 address; Python's words repeat it
        raise ConfigError(f"store {shown!r} cannot be read: {_ALLOWED}") from None
    if parts.scheme == "lmdb":
        return _open_lmdb(shown, parts, model, create)
    if parts.scheme in ("redis", "rediss"):
        return _open_redis(shown, parts, model)
    raise ConfigError(f"store {shown!r} has no kind that is known: {_ALLOWED}")


def _open_lmdb(url: str, parts: SplitResult, model: str | None, create: bool) -> Store:
    from monolith.serving.lmdb_store import LmdbStore

    options = _options(url, parts, _OPTIONS)
    directory = unquote(parts.netloc + parts.path)
    if not directory.strip("/") or "\0" in directory:
        raise ConfigError(f"store {url!r} names no folder: {_ALLOWED}")
    return LmdbStore(Path(directory), url=url, model=model, limits=_limits(url, options), create=create)


def _open_redis(url: str, parts: SplitResult, model: str | None) -> Store:
    from monolith.serving.redis_store import RedisStore

    secure = parts.scheme == "rediss"
    options = _options(url, parts, _REDISS_OPTIONS if secure else _REDIS_OPTIONS)
    name = options.get("model") or model
    database = parts.path.strip("/") or "0"
    if not parts.hostname or not _has_port(parts) or not database.isdecimal():
        raise ConfigError(f"store {url!r} names no host, port and database: {_ALLOWED}")
    if not name or set(name) & set("{}"):
        raise ConfigError(f"store {url!r} needs a model name without braces, seen {name!r}: {_ALLOWED}")
    return RedisStore(
        parts._replace(path=f"/{database}", query="").geturl(),
        url=url,
        model=name,
        limits=_limits(url, options),
        timeout_s=_number(url, options, "timeout_s", 10.0),
        tls=_tls(url, options) if secure else None,
    )


def _tls(url: str, options: Mapping[str, str]) -> Tls:
    """What the options say, whose files can be used: redis-py looks at them only when it connects."""
    tls = tls_of(options, url.partition("?")[0])
    tls.context()
    return tls


def _has_port(parts: SplitResult) -> bool:
    try:
        return parts.port is None or parts.port > 0
    except ValueError:
        return False


def _options(url: str, parts: SplitResult, allowed: set[str]) -> dict[str, str]:
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    if unknown := sorted(set(options) - allowed):
        raise ConfigError(f"store {url!r} has unknown options {unknown}: {_ALLOWED}")
    return options


def _limits(url: str, options: Mapping[str, str]) -> LogLimits:
    default = LogLimits()
    max_deltas = _number(url, options, "log_deltas", default.max_deltas)
    max_mb = _number(url, options, "log_mb", default.max_bytes / 2**20)
    return LogLimits(int(max_deltas), int(max_mb * 2**20))


def _number(url: str, options: Mapping[str, str], name: str, default: float) -> float:
    text = options.get(name)
    try:
        number = default if text is None else float(text)
    except ValueError:
        number = -1.0
    if not 0 < number < 1e9:
        raise ConfigError(f"store {url!r}: {name}={scrubbed(str(text))!r} is not a number above 0: {_ALLOWED}")
    return number
