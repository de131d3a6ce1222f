"""The reading half of the Redis store: one version an answer, and the server is never held up for long."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from monolith.card import ModelCard
from monolith.errors import ConfigError, CorruptError, GapError, UnavailableError
from monolith.serving import ledger
from monolith.serving.content import of_rows
from monolith.serving.ledger import Head, Look, Version
from monolith.serving.packed import PackedTable
from monolith.serving.payload import Packed, RowFormat
from monolith.serving.redis_link import HEADS, MODEL_OF_HEAD, Keys, translated
from monolith.serving.rows import pack_keys, unpack_keys, unpack_rows
from monolith.serving.store import Found, Ids, Image, Model, Reading, Store, Values, image_of, scatter
from monolith.serving.wire import PublishedDelta, decode

SCAN_ROWS = 5_000  # a round trip
SCAN_KEYS = 1_000  # likewise
IMAGE_TRIES = 10
MAX_DELTAS_A_CALL = 64
UNKNOWN_POLICY = "unknown"
MAX_BLOCK_S = 1.0  # a store that was emptied and filled again wakes nobody; this bounds the wait

BESIDE = ("card", "graph", "dense")  # what a model has beside its head, each under one key
_PARTS = ("head", *BESIDE)


class RedisReader(Store):
    """See ``Store``; ``RedisStore`` adds the writing."""

    def __init__(self, client: Any, keys: Keys, *, url: str, timeout_s: float) -> None:
        self.url = url
        self._redis = client
        self._keys = keys
        self._block_s = min(MAX_BLOCK_S, timeout_s / 2)

    def version(self) -> Version:
        """See ``Store``."""
        with translated(self.url):
            return ledger.unseal_head(self._redis.get(self._keys.of("head")), self.url).version

    def look(self) -> Look:
        """See ``Store``: the head, then the head again with the tables' lengths and what is there beside them."""
        sealed = self._keys.of("head")
        with translated(self.url):
            names = list(ledger.unseal_head(self._redis.get(sealed), self.url).tables)
            with self._redis.pipeline() as pipe:
                pipe.mget(sealed, self._keys.of("beat"))
                for part in BESIDE:
                    pipe.exists(self._keys.of(part))
                for name in names:
                    pipe.hlen(self._keys.rows(name))
                (sealed_head, beat), *answers = pipe.execute()
        head = ledger.unseal_head(sealed_head, self.url)
        told = list(head.tables) == names  # else an image with other tables came in between
        there, counts = answers[: len(BESIDE)], answers[len(BESIDE) :]
        fault = self._lost(head, names, counts, gone_of(there)) if told else None
        alive_ms = ledger.alive_ms(head, beat, self.url)
        return Look(head.version, head.digest, fault, alive_ms, ledger.rows_of(head))

    def model_names(self) -> list[str]:
        """The models of this database, this store's among them or not, in order. Scans the database's keys."""
        with translated(self.url):
            keys = self._redis.scan_iter(match=HEADS, count=SCAN_KEYS, _type="string")
            names = {match.group(1).decode(errors="replace") for key in keys if (match := MODEL_OF_HEAD.fullmatch(key))}
        return sorted(names)

    def eviction_policy(self) -> str:
        """The server's maxmemory-policy, or ``UNKNOWN_POLICY`` where it does not tell this user."""
        try:
            with translated(self.url):
                return str(self._redis.info("memory").get("maxmemory_policy", UNKNOWN_POLICY))
        except (ConfigError, UnavailableError):  # forbidden, or away: then the next call says so
            return UNKNOWN_POLICY

    def _lost(self, head: Head, names: Sequence[str], counts: Sequence[int], gone: Sequence[str] = ()) -> str | None:
        return ledger.fault_of(dict(zip(names, counts, strict=True)), head, self.url, gone)

    def model(self) -> Model:
        """See ``Store``: one MGET."""
        with translated(self.url):
            return self._model_of(self._redis.mget([self._keys.of(part) for part in _PARTS]))

    def image(self) -> Image:
        """See ``Store``. Scans the rows while deltas go on arriving, then lays those deltas over what it saw.

        Raises UnavailableError if each time a new image came in between, or the log forgot the scan's start.
        """
        for _ in range(IMAGE_TRIES):
            before = self._head()
            try:
                scanned = {name: self._scan_all(before, name) for name in before.tables}
                return self._completed(before, scanned)
            except GapError:
                continue
            except CorruptError:  # or rows of another format, if a new image came in between
                if self.version().image == before.version.image:
                    raise
        raise UnavailableError(f"{self.url} changes faster than it can be read: raise log_deltas and log_mb in its URL")

    def read_together(self, requests: Mapping[str, Ids], *, dense: bool = False) -> Reading:
        """See ``Store``: one MULTI/EXEC."""
        asked = [name for name in requests if len(requests[name])]
        with translated(self.url), self._redis.pipeline() as pipe:
            pipe.mget([self._keys.of(part) for part in ("head", "dense")[: 1 + dense]])
            for name in asked:
                pipe.hmget(self._keys.rows(name), pack_keys(requests[name]))
            for name in asked:
                pipe.hlen(self._keys.rows(name))
            (sealed_head, *sealed_dense), *answers = pipe.execute()
        head = self._filled(sealed_head)
        counts, answers = answers[len(asked) :], answers[: len(asked)]
        known = [name for name in asked if name in head.tables]
        if fault := self._lost(head, known, [counts[asked.index(name)] for name in known]):
            raise UnavailableError(fault)
        stored = dict(zip(asked, answers, strict=True))
        rows = {name: self._unpack(head, name, ids, stored.get(name, [])) for name, ids in requests.items()}
        return Reading(head.version, rows, self._unseal(sealed_dense[0], "dense") if dense else None)

    def deltas(self, after: Version, timeout_s: float) -> list[PublishedDelta]:
        """See ``Store``: waits on a stream, so a delta is seen as soon as it is there."""
        deadline = time.monotonic() + timeout_s
        while True:
            found, pulse = self._deltas_now(after)
            left_s = deadline - time.monotonic()
            if found or left_s <= 0:
                return found
            with translated(self.url):
                block_ms = max(1, int(1000 * min(left_s, self._block_s)))
                self._redis.xread({self._keys.of("pulse"): pulse}, count=1, block=block_ms)

    def packed_rows(self, table: str) -> Iterator[tuple[Ids, Packed, RowFormat]]:
        """See ``Store``: a scan, in which a row may come twice."""
        head = self._head()
        form = head.row_format(table, self.url)
        for ids, packed in self._scan(head, table):
            yield ids, packed, form

    def close(self) -> None:
        """See ``Store``."""
        self._redis.close()

    def _deltas_now(self, after: Version) -> tuple[list[PublishedDelta], bytes]:
        """The log's deltas after a version, and the last pulse."""
        with translated(self.url), self._redis.pipeline() as pipe:
            pipe.get(self._keys.of("head"))
            pipe.xrange(self._keys.of("log"), min=f"{after.sequence + 1}-0", count=MAX_DELTAS_A_CALL)
            pipe.xrevrange(self._keys.of("pulse"), count=1)
            sealed_head, entries, pulses = pipe.execute()
        now = self._filled(sealed_head).version
        found = [self._decode(*entry) for entry in entries]
        ledger.check_reach(after, now, found[0].delta.base_sequence if found else None, self.url)
        return found, pulses[0][0] if pulses else b"0-0"

    def _decode(self, entry: bytes, fields: Mapping[bytes, bytes]) -> PublishedDelta:
        return decode(fields.get(b"delta", b""), f"{self.url}, log entry {entry.decode()}")

    def _model_of(self, parts: Sequence[bytes | None]) -> Model:
        head, card, graph, dense = parts
        version = self._filled(head).version
        return Model(version, self._card_of(card), self._unseal(graph, "graph"), self._unseal(dense, "dense"))

    def _head(self) -> Head:
        with translated(self.url):
            return self._filled(self._redis.get(self._keys.of("head")))

    def _filled(self, sealed_head: bytes | None) -> Head:
        head = ledger.unseal_head(sealed_head, self.url)
        if head.version.sequence == 0:
            raise UnavailableError(f"{self.url} holds no model yet: wait for the trainer's first delta")
        return head

    def _card_of(self, sealed: bytes | None) -> ModelCard:
        return ledger.unseal_card(self._present(sealed, "card"), self.url)

    def _unseal(self, sealed: bytes | None, name: str) -> bytes:
        return ledger.unseal(self._present(sealed, name), f"the {name} of {self.url}")

    def _present(self, sealed: bytes | None, name: str) -> bytes:
        if sealed is None:
            raise CorruptError(f"{self.url} has lost its {name}; {ledger.MENDED}")
        return sealed

    # --- rows ---

    def _unpack(self, head: Head, table: str, ids: Ids, stored: Sequence[bytes | None]) -> tuple[Values, Found]:
        form = head.row_format(table, self.url)
        found = np.fromiter((row is not None for row in stored), np.bool_, len(stored))
        present = [row for row in stored if row is not None]
        packed = unpack_rows(ids[found], present, form, self._place(table))
        return scatter(ids, found, form.unpack(packed)), found

    def _scan(self, head: Head, table: str) -> Iterator[tuple[Ids, Packed]]:
        form = head.row_format(table, self.url)
        cursor = 0
        while True:
            with translated(self.url):
                cursor, chunk = self._redis.hscan(self._keys.rows(table), cursor, count=SCAN_ROWS)
            ids = unpack_keys(list(chunk), self._place(table))
            yield ids, unpack_rows(ids, list(chunk.values()), form, self._place(table))
            if cursor == 0:
                return

    def _scan_all(self, head: Head, table: str) -> tuple[Ids, Packed]:
        chunks = list(self._scan(head, table))
        return np.concatenate([ids for ids, _ in chunks]), np.concatenate([packed for _, packed in chunks])

    def _completed(self, before: Head, scanned: Mapping[str, tuple[Ids, Packed]]) -> Image:
        """The image of one version from a scan that began at ``before``. GapError if the log has not all since."""
        start = before.version
        with translated(self.url), self._redis.pipeline() as pipe:
            pipe.mget([self._keys.of(part) for part in _PARTS])
            pipe.xrange(self._keys.of("log"), min=f"{start.sequence + 1}-0")
            parts, entries = pipe.execute()
        model, head = self._model_of(parts), ledger.unseal_head(parts[0], self.url)
        version = model.version
        since = [self._decode(*entry).delta for entry in entries]
        ledger.check_reach(start, version, since[0].base_sequence if since else None, self.url)
        rows = {name: overlaid(scanned[name], [delta.tables[name] for delta in since]) for name in scanned}
        ledger.check_contents({name: of_rows(*table) for name, table in rows.items()}, head, self.url)
        none = np.zeros(0, np.int64)
        tables = {
            name: PackedTable(0, version.sequence, ids, packed, none, before.row_format(name, self.url))
            for name, (ids, packed) in rows.items()
        }
        return image_of(model, tables, before.payload)

    def _place(self, table: str) -> str:
        return f"{self.url}, table {table!r}"


def overlaid(scanned: tuple[Ids, Packed], since: Sequence[PackedTable]) -> tuple[Ids, Packed]:
    """Rows as of the last delta, ascending, from a scan that may hold any of the versions since the first.

    A row that no delta names is the same in all of them; of a row that one names, the last one that does is right.
    """
    ids, first = np.unique(scanned[0], return_index=True)
    packed = scanned[1][first]
    if not since:
        return ids, packed
    newest_first = since[::-1]
    width = packed.shape[1]
    named = np.concatenate([part for delta in newest_first for part in (delta.ids, delta.removed)])
    alive = np.repeat([True, False] * len(since), [len(p) for d in newest_first for p in (d.ids, d.removed)])
    written = np.concatenate([np.vstack([d.packed, np.zeros((len(d.removed), width), np.uint8)]) for d in newest_first])
    changed, last = np.unique(named, return_index=True)
    last = last[alive[last]]
    same = ~np.isin(ids, changed, assume_unique=True)
    ids, packed = np.concatenate([ids[same], named[last]]), np.concatenate([packed[same], written[last]])
    order = np.argsort(ids)
    return ids[order], packed[order]


def gone_of(there: Sequence[int]) -> list[str]:
    """Which of a model's parts beside its head are not there; ``there``: how many keys each has, 0 or 1."""
    return [part for part, keys in zip(BESIDE, there, strict=True) if not keys]
