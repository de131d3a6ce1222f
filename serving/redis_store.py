"""The store in a Redis server, for replicas on any machine; ``redis_link`` says what lies under which key.

Every write watches ``head``, decides by the rules of ``ledger``, and is one MULTI/EXEC: it happens as a whole, and not
at all if another trainer moved the head meanwhile.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from redis.exceptions import WatchError

from monolith.card import ModelCard
from monolith.errors import CorruptError, GapError, UnavailableError
from monolith.forks import in_child
from monolith.serving import ledger
from monolith.serving.content import Content, Contents, of_rows, of_stored
from monolith.serving.ledger import Beat, Cards, Head, Held, LogEntry, LogLimits, Writer
from monolith.serving.packed import PackedDelta, PackedTable, pack_delta
from monolith.serving.redis_link import Keys, connect, translated
from monolith.serving.redis_reader import BESIDE, UNKNOWN_POLICY, RedisReader, gone_of
from monolith.serving.redis_staging import CHUNK_ROWS, StagedKeys, row_commands
from monolith.serving.rows import pack_keys
from monolith.serving.staged import joined
from monolith.serving.staging import Receipt, Ticket, begun, check_whole, contents_of, without_rows
from monolith.serving.wire import PublishedDelta, encode_for_log
from monolith.tables.delta import Delta, ModelDelta
from monolith.tls import Tls

log = logging.getLogger(__name__)

WRITE_TRIES = 5

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class _Image:
    """Rows of an image that wait under names of their own."""

    name: str  # of who staged them: a take-over or an attempt
    contents: Contents


class RedisStore(RedisReader):
    """See ``Store``. Connects with the first call, and again after every failure."""

    def __init__(
        self, address: str, *, url: str, model: str, limits: LogLimits, timeout_s: float, tls: Tls | None = None
    ) -> None:
        """``tls``: of an address ``rediss://``."""
        super().__init__(connect(address, timeout_s, tls), Keys(model), url=url, timeout_s=timeout_s)
        self._limits = limits
        self._staged = StagedKeys(self._redis, self._keys, url)
        self._owner = ""
        in_child(self._disown)
        self._payload = "float32"  # of the card that this store was taken over with
        self._policy = "noeviction"  # the last one that was found

    def _disown(self) -> None:
        """One process writes: a forked child is fenced, unless it takes over."""
        self._owner = ""

    def take_over(self, card: ModelCard, graph: bytes = b"", generation: int | None = None) -> Held:
        """See ``Store``."""
        owner = self._owner if generation is not None and self._owner else ledger.new_owner()

        def step(pipe: Any, head: Head) -> Held:
            claimed, held_card = ledger.claim(head, owner, generation, self.url), self._cards(pipe).held
            adopted, fault = ledger.adopted(card, held_card), self._fault(pipe, head)
            left = self._staged.left(pipe.get(self._keys.of("attempt")))
            pipe.multi()
            self._staged.queue_sweep(pipe, left)
            pipe.set(self._keys.of("head"), ledger.seal_json(claimed))
            pipe.set(self._keys.of("next_card"), ledger.seal_card(adopted))
            pipe.set(self._keys.of("next_graph"), ledger.seal(graph))
            sequence = ledger.held_sequence(claimed, held_card, adopted)
            return Held(claimed.generation, sequence, adopted.lineage, claimed.digest, fault, ledger.rows_of(head))

        held = self._write(step)
        self._warn_of_eviction()
        self._owner, self._payload = owner, card.payload
        return held

    def apply(self, delta: ModelDelta, generation: int, lineage: str) -> bool:
        """See ``Store``: one MULTI/EXEC. An image's rows travel before it, under names that nobody reads."""
        packed = pack_delta(delta, self._payload)
        writer = Writer(self._owner, generation, lineage)
        if packed.base_sequence:
            return self._take(packed, writer)

        def accepted(pipe: Any, head: Head) -> bool:
            return ledger.accepts(head, writer, self._cards(pipe), packed, self.url)

        encode_for_log(PublishedDelta(generation, lineage, 0, packed))  # for its rules
        if not self._write(accepted):
            return False
        self._stage(packed)
        contents = {name: of_rows(table.ids, table.packed) for name, table in packed.tables.items()}
        return self._take(packed, writer, _Image(self._owner, contents))

    def begin(self, base_sequence: int, sequence: int, parts: int, generation: int, lineage: str) -> Ticket | None:
        """See ``Store``."""
        writer = Writer(self._owner, generation, lineage)

        def step(pipe: Any, head: Head) -> Ticket | None:
            ticket = begun(head, writer, self._cards(pipe), (base_sequence, sequence), parts, self.url)
            left = self._staged.left(pipe.get(self._keys.of("attempt")))
            if ticket is not None:
                pipe.multi()
                self._staged.queue_begin(pipe, ticket, left)
            return ticket

        return self._write(step)

    def stage(self, ticket: Ticket, part: int, tables: Mapping[str, Delta]) -> Receipt:
        """See ``Store``: from any machine."""
        return self._staged.stage(ticket, part, tables)

    def commit(self, ticket: Ticket, receipts: Sequence[Receipt], delta: ModelDelta) -> bool:
        """See ``Store``: one MULTI/EXEC. An image's rows do not pass through here."""
        check_whole(ticket, receipts)
        bare, writer = without_rows(ticket, delta), Writer(self._owner, ticket.generation, ticket.lineage)
        if ticket.is_image:
            return self._take(bare, writer, _Image(ticket.attempt, contents_of(ticket, receipts)))
        return self._take(joined(ticket, [self._staged.part(ticket, receipt) for receipt in receipts], bare), writer)

    def _take(self, packed: PackedDelta, writer: Writer, image: _Image | None = None) -> bool:
        """``apply``, of packed rows; those of an image wait."""
        published = PublishedDelta(writer.generation, writer.lineage, time.time_ns() // 1_000_000, packed)
        data = encode_for_log(published)

        def step(pipe: Any, head: Head) -> bool:
            if not ledger.accepts(head, writer, self._cards(pipe), packed, self.url):
                return False
            contents = image.contents if image else self._contents_after(pipe, head, packed)
            after = ledger.advance(head, writer.lineage, packed, published.published_ms, contents)
            self._queue_delta(pipe, head, after, packed, data, image)
            return True

        return self._write(step)

    def beat(self) -> None:
        """See ``Store``."""
        sealed = ledger.seal_json(Beat(self._owner, time.time_ns() // 1_000_000))
        with translated(self.url):
            self._redis.set(self._keys.of("beat"), sealed)

    def _cards(self, pipe: Any) -> Cards:
        return Cards(*(self._card(sealed) for sealed in pipe.mget(self._keys.of("card"), self._keys.of("next_card"))))

    def _card(self, sealed: bytes | None) -> ModelCard | None:
        """None for a damaged one too: whoever writes replaces it, with all else of the model."""
        try:
            return None if sealed is None else ledger.unseal_card(sealed, self.url)
        except CorruptError as error:
            log.warning("a damaged card is replaced: %s", error)
            return None

    def _write(self, step: Callable[[Any, Head], _T]) -> _T:
        """Run ``step`` on a pipeline that watches the head, again for as long as somebody else wrote meanwhile."""
        with translated(self.url):
            for _ in range(WRITE_TRIES):
                with self._redis.pipeline() as pipe:
                    try:
                        pipe.watch(self._keys.of("head"))
                        result = step(pipe, ledger.unseal_head(pipe.get(self._keys.of("head")), self.url))
                        pipe.execute()
                        return result
                    except WatchError:  # redis-py says so for a connection lost here, too
                        continue
        raise UnavailableError(f"{self.url} was written by others or lost {WRITE_TRIES} times in a row: try again")

    def _contents_after(self, pipe: Any, head: Head, delta: PackedDelta) -> Contents | None:
        """What the tables will hold after a delta. Asks for the rows that it replaces or removes: their checksums go.

        Raises GapError if the store no longer has all its rows. Nobody else writes them between here and EXEC, which
        happens only if the head is the same.
        """
        if fault := self._fault(pipe, head):
            raise GapError(fault)
        if head.contents is None:
            return None
        return {name: head.contents[name] + self._move(pipe, name, table) for name, table in delta.tables.items()}

    def _move(self, pipe: Any, name: str, table: PackedTable) -> Content:
        """By how much a table's content changes."""
        keys, gone = pack_keys(np.concatenate([table.ids, table.removed])), Content()
        for start in range(0, len(keys), CHUNK_ROWS):
            stored = pipe.hmget(self._keys.rows(name), keys[start : start + CHUNK_ROWS])
            gone += of_stored([row for row in stored if row is not None])
        return of_rows(table.ids, table.packed) - gone

    def _fault(self, pipe: Any, head: Head) -> str | None:
        gone = gone_of([pipe.exists(self._keys.of(part)) for part in BESIDE])
        counts = {} if head.contents is None else {name: pipe.hlen(self._keys.rows(name)) for name in head.tables}
        return ledger.fault_of(counts, head, self.url, gone)

    def _warn_of_eviction(self) -> None:
        """Say, once for each policy that is found, that the server may throw rows away."""
        policy = self.eviction_policy()
        if policy == self._policy:
            return
        self._policy = policy
        if policy.startswith("allkeys"):
            log.warning(
                "%s has maxmemory-policy %s: when memory runs out, it throws away whole tables, and replicas that "
                "start then have no model until the trainer sends an image again. Set it to noeviction (or to "
                "volatile-lru: a model's keys have no time to live), or give the model a server of its own",
                self.url,
                policy,
            )
        elif policy == UNKNOWN_POLICY:
            log.info("%s does not tell its maxmemory-policy (INFO is forbidden): see that it is noeviction", self.url)

    def _queue_delta(
        self, pipe: Any, before: Head, after: Head, delta: PackedDelta, data: bytes, image: _Image | None
    ) -> None:
        """Queue all that a delta changes; nothing of it happens until EXEC."""
        waiting = [self._keys.of(name) for name in ("next_card", "next_graph", "attempt")]
        staged_card, staged_graph, attempt = pipe.mget(waiting)
        if image is not None:
            present = self._check_staged(pipe, image)
            pipe.multi()
            self._queue_image(pipe, before, image, present)
        else:
            index = self._log_index(pipe)
            pipe.multi()
            self._queue_rows(pipe, delta)
            self._queue_log(pipe, index, delta, data)
        self._staged.queue_sweep(pipe, self._staged.left(attempt))
        if staged_card is not None:
            pipe.set(self._keys.of("card"), staged_card)
            pipe.set(self._keys.of("graph"), staged_graph)
            pipe.delete(self._keys.of("next_card"), self._keys.of("next_graph"))
        pipe.set(self._keys.of("dense"), ledger.seal(delta.dense))
        pipe.set(self._keys.of("head"), ledger.seal_json(after))
        pipe.xadd(self._keys.of("pulse"), {"sequence": delta.sequence}, maxlen=1, approximate=False)

    def _queue_rows(self, pipe: Any, delta: PackedDelta) -> None:
        for name, table in delta.tables.items():
            for command in row_commands(self._keys.rows(name), table):
                pipe.execute_command(*command)
            for start in range(0, len(table.removed), CHUNK_ROWS):
                pipe.hdel(self._keys.rows(name), *pack_keys(table.removed[start : start + CHUNK_ROWS]))

    def _log_index(self, pipe: Any) -> list[LogEntry]:
        sealed = pipe.get(self._keys.of("log_index"))
        return [] if sealed is None else ledger.unseal_json(sealed, list[LogEntry], f"the log index of {self.url}")

    def _queue_log(self, pipe: Any, index: list[LogEntry], delta: PackedDelta, data: bytes) -> None:
        kept = ledger.trimmed([*index, LogEntry(delta.base_sequence, delta.sequence, len(data))], self._limits)
        if kept:
            pipe.xadd(self._keys.of("log"), {"delta": data}, id=f"{delta.sequence}-0")
            pipe.xtrim(self._keys.of("log"), minid=f"{kept[0].sequence}-0", approximate=False)
        else:
            pipe.delete(self._keys.of("log"))
        pipe.set(self._keys.of("log_index"), ledger.seal_json(kept))

    # --- images ---

    def _stage(self, delta: PackedDelta) -> None:
        """Send an image's rows ahead, in pieces, so that no single command is long."""
        with translated(self.url):
            for name, table in delta.tables.items():
                self._redis.delete(self._keys.stage(self._owner, name))
                self._staged.stage_rows(self._keys.stage(self._owner, name), table)

    def _check_staged(self, pipe: Any, image: _Image) -> list[str]:
        """Watch the staged tables, see that each is whole, and return the names of those that have rows."""
        present = [name for name, content in image.contents.items() if content.rows]
        for name in present:
            stage = self._keys.stage(image.name, name)
            pipe.watch(stage)
            if pipe.hlen(stage) != image.contents[name].rows:
                raise UnavailableError(f"{self.url} lost a part of the image on its way in (table {name!r}): try again")
        return present

    def _queue_image(self, pipe: Any, before: Head, image: _Image, present: list[str]) -> None:
        for name in sorted({*before.tables, *image.contents}):
            pipe.unlink(self._keys.rows(name))
        for name in present:
            pipe.persist(self._keys.stage(image.name, name))
            pipe.rename(self._keys.stage(image.name, name), self._keys.rows(name))
        pipe.delete(self._keys.of("log"))
        pipe.set(self._keys.of("log_index"), ledger.seal_json([]))
