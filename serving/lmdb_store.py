"""The store in a folder: LMDB, for the processes of one machine.

A delta is one write transaction and a reading is one read transaction, so both are atomic across processes and kills.
``lmdb_transaction`` says what lies where.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from monolith.card import ModelCard
from monolith.errors import ConfigError, GapError, UnavailableError
from monolith.forks import in_child
from monolith.serving import ledger, lmdb_env
from monolith.serving.ledger import Beat, Cards, Head, Held, LogLimits, Look, Version, Writer
from monolith.serving.lmdb_beat import BeatFile
from monolith.serving.lmdb_staging import StagedFiles
from monolith.serving.lmdb_transaction import Transaction
from monolith.serving.packed import PackedDelta, pack_delta
from monolith.serving.payload import Packed, RowFormat
from monolith.serving.staged import joined, rows_of
from monolith.serving.staging import Receipt, Ticket, begun, check_whole, without_rows
from monolith.serving.store import Ids, Image, Model, Reading, Store, image_of
from monolith.serving.wire import PublishedDelta, encode_for_log
from monolith.tables.delta import Delta, ModelDelta

log = logging.getLogger(__name__)

POLL_S = 0.005  # LMDB wakes nobody: a follower looks for a new transaction this often (a look costs about 1 us)
MAX_DELTAS_A_CALL = 64


class LmdbStore(Store):
    """See ``Store``. The folder is opened by the first call that needs it."""

    def __init__(self, directory: Path, *, url: str, model: str | None, limits: LogLimits, create: bool) -> None:
        self.url = url
        self._directory = directory
        self._model = model
        self._limits = limits
        self._create = create
        self._owner = ""
        in_child(self._disown)
        self._payload = "float32"  # of the card that this store was taken over with
        self._opened: lmdb_env.Environment | None = None
        self._beat_file = BeatFile(directory, url)
        self._staged = StagedFiles(directory, url)

    def _disown(self) -> None:
        """One process writes: a forked child is fenced, unless it takes over."""
        self._owner = ""

    def take_over(self, card: ModelCard, graph: bytes = b"", generation: int | None = None) -> Held:
        """See ``Store``. A folder holds one model: ConfigError for another's card."""
        with self._transaction(write=True) as txn:
            held_card = txn.card()
            self._check_model(held_card or card)
            self._check_model(card)
            owner = self._owner if generation is not None and self._owner else ledger.new_owner()
            head, card = ledger.claim(txn.head(), owner, generation, self.url), ledger.adopted(card, held_card)
            sequence, fault = ledger.held_sequence(head, held_card, card), txn.fault(head)
            txn.put("head", ledger.seal_json(head))
            txn.put("next_card", ledger.seal_card(card))
            txn.put("next_graph", ledger.seal(graph))
        self._owner, self._payload = owner, card.payload
        self._staged.sweep()
        return Held(head.generation, sequence, card.lineage, head.digest, fault, ledger.rows_of(head))

    def apply(self, delta: ModelDelta, generation: int, lineage: str) -> bool:
        """See ``Store``: one write transaction, on the disk when it returns."""
        return self._write(pack_delta(delta, self._payload), generation, lineage)

    def begin(self, base_sequence: int, sequence: int, parts: int, generation: int, lineage: str) -> Ticket | None:
        """See ``Store``."""
        writer = Writer(self._owner, generation, lineage)
        with self._transaction() as txn:
            cards = Cards(txn.card(), txn.card("next_card"))
            ticket = begun(txn.head(), writer, cards, (base_sequence, sequence), parts, self.url)
        if ticket is not None:
            self._staged.begin(ticket)
        return ticket

    def stage(self, ticket: Ticket, part: int, tables: Mapping[str, Delta]) -> Receipt:
        """See ``Store``: a file, by a process of the same machine."""
        return self._staged.stage(ticket, part, tables)

    def commit(self, ticket: Ticket, receipts: Sequence[Receipt], delta: ModelDelta) -> bool:
        """See ``Store``: one write transaction, on the disk when it returns."""
        check_whole(ticket, receipts)
        bare = without_rows(ticket, delta)
        with self._staged.opened(ticket, receipts) as parts:
            if ticket.is_image:
                applied = self._write(bare, ticket.generation, ticket.lineage, rows_of(ticket, parts))
            else:
                applied = self._write(joined(ticket, parts, bare), ticket.generation, ticket.lineage)
        self._staged.remove(ticket)
        return applied

    def _write(
        self, packed: PackedDelta, generation: int, lineage: str, rows: Iterator[tuple[str, Ids, Packed]] | None = None
    ) -> bool:
        """``apply``, of packed rows; those of an image may be given apart."""
        published = PublishedDelta(generation, lineage, time.time_ns() // 1_000_000, packed)
        data = encode_for_log(published)
        with self._transaction(write=True) as txn:
            head, cards = txn.head(), Cards(txn.card(), txn.card("next_card"))
            if not ledger.accepts(head, Writer(self._owner, generation, lineage), cards, packed, self.url):
                return False
            if packed.base_sequence and (fault := txn.fault(head)):
                raise GapError(fault)
            contents = txn.write_rows(packed, head.contents) if rows is None else txn.write_image(packed.tables, rows)
            after = ledger.advance(head, lineage, packed, published.published_ms, contents)
            txn.put("head", ledger.seal_json(after))
            txn.put("dense", ledger.seal(packed.dense))
            txn.promote()
            txn.append(packed, data, self._limits)
        return True

    def version(self) -> Version:
        """See ``Store``."""
        with self._transaction() as txn:
            return txn.head().version

    def look(self) -> Look:
        """See ``Store``."""
        with self._transaction() as txn:
            head = txn.head()
            fault = txn.fault(head)
        alive_ms = ledger.alive_ms(head, self._beat_file.read(), self.url)
        return Look(head.version, head.digest, fault, alive_ms, ledger.rows_of(head))

    def beat(self) -> None:
        """See ``Store``: a small file, for a transaction would cost a sync every second."""
        self._beat_file.write(ledger.seal_json(Beat(self._owner, time.time_ns() // 1_000_000)))

    def model(self) -> Model:
        """See ``Store``."""
        with self._transaction() as txn:
            return self._checked(txn.model())

    def image(self) -> Image:
        """See ``Store``: one read transaction, so writers do not wait."""
        with self._transaction() as txn:
            model, head = self._checked(txn.model()), txn.head()
            return image_of(model, txn.all_rows(head), head.payload)

    def read_together(self, requests: Mapping[str, Ids], *, dense: bool = False) -> Reading:
        """See ``Store``: one read transaction."""
        with self._transaction() as txn:
            head = self._filled(txn.head())
            if fault := txn.fault(head):
                raise UnavailableError(fault)
            rows = {table: txn.read(head, table, ids) for table, ids in requests.items()}
            return Reading(head.version, rows, txn.model().dense if dense else None)

    def packed_rows(self, table: str) -> Iterator[tuple[Ids, Packed, RowFormat]]:
        """See ``Store``: of one version in any case, that of the first chunk."""
        with self._transaction() as txn:
            form = (head := self._filled(txn.head())).row_format(table, self.url)
            for ids, packed in txn.chunks(head, table):
                yield ids, packed, form

    def deltas(self, after: Version, timeout_s: float) -> list[PublishedDelta]:
        """See ``Store``: looks for a new transaction every few milliseconds."""
        deadline = time.monotonic() + timeout_s
        while True:
            seen = self._last_transaction()
            found = self._deltas_now(after)
            if found or time.monotonic() >= deadline:
                return found
            self._await_write(seen, deadline)

    def close(self) -> None:
        """See ``Store``."""
        with lmdb_env.registry():
            environment, self._opened = self._opened, None
            if environment is not None:
                lmdb_env.release(environment)

    def _deltas_now(self, after: Version) -> list[PublishedDelta]:
        with self._transaction() as txn:
            now = self._filled(txn.head()).version
            found = txn.logged_after(after.sequence, MAX_DELTAS_A_CALL)
        ledger.check_reach(after, now, found[0].delta.base_sequence if found else None, self.url)
        return found

    def _await_write(self, seen: int, deadline: float) -> None:
        """Return once somebody committed after transaction ``seen``, or at the deadline."""
        while self._last_transaction() == seen and time.monotonic() < deadline:
            time.sleep(POLL_S)

    def _last_transaction(self) -> int:
        environment = self._environment()
        with lmdb_env.translated(self.url):
            return environment.last_transaction()

    def _filled(self, head: Head) -> Head:
        if head.version.sequence == 0:
            raise UnavailableError(f"{self.url} holds no model yet: wait for the trainer's first delta")
        return head

    def _checked(self, model: Model) -> Model:
        self._check_model(model.card)
        return model

    def _check_model(self, card: ModelCard) -> None:
        if self._model is not None and card.model != self._model:
            raise ConfigError(
                f"{self.url} is for model {card.model!r}, not {self._model!r}: name another folder, or ask for "
                f"the model that is there (--model {card.model})"
            )

    @contextmanager
    def _transaction(self, *, write: bool = False) -> Iterator[Transaction]:
        environment = self._environment()
        with lmdb_env.translated(self.url), environment.in_use():
            if write:
                environment.lmdb.reader_check()  # a killed reader's slot would keep old pages for ever
            with environment.lmdb.begin(write=write) as txn:
                yield Transaction(environment, txn, self.url)

    def _environment(self) -> lmdb_env.Environment:
        opened = self._opened
        if opened is not None and opened.is_current():
            return opened
        del opened
        with lmdb_env.registry():
            self._let_go_of_stale()  # nothing here may hold on to it: where only one file is new, LMDB sees the other
            if self._opened is None:
                self._opened = lmdb_env.acquire(self._directory, create=self._create)
            return self._opened

    def _let_go_of_stale(self) -> None:
        if self._opened is not None and not self._opened.is_current():
            log.warning("the folder was removed or replaced, opening what is there now store=%s", self.url)
            lmdb_env.release(self._opened)
            self._opened = None
