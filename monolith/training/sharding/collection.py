"""Tables whose rows are divided between the ranks of a process group, stepped together: `tables.collection`, on many.

Each rank brings its own batch; together these are the global batch, by rank. A step is the one that a single process
would make of the global batch: which ids are counted, admitted, expired and evicted is the same for every number of
ranks, and so are the rows, bit by bit where ``exact`` is set, else up to the order in which float32 gradients are
added (``docs/sharding.md``).

Every method that says "collective" must be called by all ranks, in the same order.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch.distributed as dist

from monolith.config.table import TableConfig
from monolith.errors import InputError, NonFiniteError
from monolith.events import WATERMARK_START
from monolith.tables import Table, _core
from monolith.tables.arguments import EventTimes, Matrix
from monolith.tables.batch import Bag
from monolith.tables.buckets import BUCKETS
from monolith.tables.collection import Output
from monolith.tables.delta import Delta, joined
from monolith.tables.outputs import empty_matrix
from monolith.tables.stats import HAPPENED, HELD
from monolith.training.sharding.agreement import check_agreed
from monolith.training.sharding.answers import Asked, OwnPart, PartStep, questioners
from monolith.training.sharding.clipping import global_norms
from monolith.training.sharding.division import LIMIT_PARTS, Division, divisions_of
from monolith.training.sharding.hot_tables import end_step, hot_tables_of
from monolith.training.sharding.questions import LOOKUP, STEP, Questions
from monolith.training.sharding.readings import readings_of
from monolith.training.sharding.saved import SavedCollection, save
from monolith.training.sharding.tails import share_gradients, spread_tails
from monolith.training.sharding.transport import Messages, Room, Transport, Wire

Ints = npt.NDArray[np.int64]


class ShardedCollection:
    """``configs`` divided between the ranks of ``group`` (None: all ranks). Collective.

    A `Transport` in place of a group has a ``wire`` of its own.

    ``exact``: every occurrence's gradient goes to the owner, and sums are formed in the order of the global batch, so
    that the rows are the same bits at every number of ranks. Else a rank's gradients of one id are summed before they
    are sent, and the owner adds the ranks' sums in order of rank: less to send, and a bound in place of equality.
    ``wire`` is what rows and gradients are rounded to on their way. ``limit_parts``: parts of a table with a limit.
    ``folder``: go on with the tables that ``save`` put there, whatever the number of ranks was.

    Raises ConfigError where a table cannot be divided, and where ranks disagree about tables or options, naming the
    rank and what differs.
    """

    def __init__(
        self,
        configs: Sequence[TableConfig],
        outputs: Sequence[Output],
        group: dist.ProcessGroup | Transport | None = None,
        *,
        exact: bool = False,
        wire: Wire = "float32",
        limit_parts: int = LIMIT_PARTS,
        folder: str | os.PathLike[str] | None = None,
    ) -> None:
        self.transport = group if isinstance(group, Transport) else Transport(group, wire)
        self.exact = exact
        self.outputs = tuple(outputs)
        self.divisions = divisions_of(configs, self.transport.ranks, limit_parts)
        check_agreed(self.transport, configs, {"exact": exact, "wire": wire, "limit_parts": limit_parts})
        by_name = {config.name: config for config in configs}
        self.dims = tuple(by_name[out.table].vector_width(out.feature) for out in outputs)
        saved = None if folder is None else SavedCollection(folder, self.divisions)
        self.parts = [
            OwnPart(number, division, part, _table(division, part, number, saved))
            for number, division in enumerate(self.divisions)
            for part in division.of(self.transport.rank)
        ]
        self.table_dims = np.array([division.config.dim for division in self.divisions], np.int64)
        self.part_dims = self.table_dims[[part.number for part in self.parts]]
        self.readings = readings_of(self.divisions)
        self.hot_tables = hot_tables_of(self.divisions)
        for hot in self.hot_tables if saved is not None else ():
            assert saved is not None
            hot.index.keep(*saved.kept(hot.number))
        self._tails_are_spread = folder is None

    @property
    def tables(self) -> dict[str, list[Table]]:
        """The parts of each table that this rank has, by the name under which their rows are published."""
        return {
            division.native.name: [part.table for part in self.parts if part.number == number]
            for number, division in enumerate(self.divisions)
        }

    def replace_parts(self, parts: Sequence[Table]) -> None:
        """Go on with other tables in the places of ``parts``, of the same buckets and rules. Raises InputError."""
        if [table.buckets for table in parts] != [part.table.buckets for part in self.parts]:
            raise InputError(
                "the parts do not have the buckets of those that they replace: open them for the same ranks"
            )
        self.parts = [replace(old, table=new) for old, new in zip(self.parts, parts, strict=True)]
        self._tails_are_spread = False

    def _spread_tails(self) -> None:
        """Have all parts' copies of shared rows be what their owners have, where parts came from elsewhere. Collective.

        The first call that reads rows does it, which all ranks make.
        """
        if not self._tails_are_spread:
            spread_tails(self.transport, self.parts)
            self._tails_are_spread = True

    # --- a step -------------------------------------------------------------------------------------------------------

    def ask(self, bags: Sequence[Bag], event_time_ms: EventTimes = None) -> Asking:
        """Begin to send the ids of ``bags``, one for each output: so that they travel beside other work. Collective.

        Nothing is changed in any table before ``forward`` of what this returns. Where rows change hands at the end of
        the step under way (``kind: cafe``), nothing is sent before ``forward`` either: which rows the ids will have is
        not known yet. Raises InputError on this rank alone, for bags that are malformed: the others then wait for it
        until their time-out.
        """

        def send() -> tuple[Questions, Messages]:
            questions = Questions(self.divisions, bags, event_time_ms, STEP, exact=self.exact)
            return questions, self.transport.send(questions.messages(self.transport.ranks))

        return Asking(send, at_once=not any(hot.index.exchanges for hot in self.hot_tables))

    def forward(self, bags: Sequence[Bag] | Asking, event_time_ms: EventTimes = None) -> ShardedStep:
        """Observe the ids of the global batch and pool this rank's vectors. Collective.

        ``event_time_ms`` is one time, one for each of this rank's samples (batch,) int64, or None: the clocks stand;
        all ranks give the same kind. Raises InputError before any table is changed.
        """
        asking = bags if isinstance(bags, Asking) else self.ask(bags, event_time_ms)
        questions, messages = asking.sent()
        return self.forward_messages(questions, messages.wait())

    def forward_messages(self, questions: Questions, messages: Sequence[Ints]) -> ShardedStep:
        """``forward``, where the ``questions`` were sent by other means, and the ranks' ``messages`` came."""
        self._spread_tails()
        readers = questioners(messages, len(self.divisions))
        asked = [reader.read(self.parts, exact=self.exact) for reader in readers]
        clocks = np.max([reader.latest for reader in readers], axis=0, initial=WATERMARK_START).tolist()
        room = self._room_for_rows(questions, asked)
        steps = [
            PartStep(part, [one[k] for one in asked], clocks[part.number], room.flat, begins, exact=self.exact)
            for k, (part, begins) in enumerate(zip(self.parts, room.to_ranks, strict=True))
        ]
        return ShardedStep(self, questions, steps, self._pooled(questions, room))

    def lookup(self, bags: Sequence[Bag]) -> Matrix:
        """The pooled vectors of this rank, (batch, sum of dims) float32; no table is changed. Collective."""
        questions = Questions(self.divisions, bags, None, LOOKUP, exact=False)
        return self.lookup_messages(questions, self.transport.send(questions.messages(self.transport.ranks)).wait())

    def lookup_messages(self, questions: Questions, messages: Sequence[Ints]) -> Matrix:
        """``lookup``, where the ``questions`` were sent by other means."""
        self._spread_tails()
        asked = [reader.read(self.parts, exact=False) for reader in questioners(messages, len(self.divisions))]
        room = self._room_for_rows(questions, asked)
        for k, (part, begins) in enumerate(zip(self.parts, room.to_ranks, strict=True)):
            ids = [one[k].ids for one in asked]
            ends = np.cumsum([len(own) for own in ids])
            _core.table_lookup_blocks(part.table.native, np.concatenate(ids), room.flat, begins, ends)
        return self._pooled(questions, room)

    def _room_for_rows(self, questions: Questions, asked: Sequence[Sequence[Asked]]) -> Room:
        """For the rows that the ranks asked for, ``asked[rank][part]``, and those that this rank did."""
        given = np.array([[len(part.ids) for part in own] for own in asked], np.int64)
        wanted = np.diff([table.row_ends for table in questions.tables], axis=1, prepend=0).T
        return self.transport.room(given * self.part_dims, wanted * self.table_dims)

    def _pooled(self, questions: Questions, room: Room) -> Matrix:
        """The rows go to who asked for them, and this rank's come: pooled, (batch, sum of dims)."""
        room.exchange()
        out = empty_matrix(questions.samples, sum(self.dims))
        for reading in self.readings:
            reading.pool(questions.tables, room.flat, room.from_ranks, out)
        return out

    # --- between steps ------------------------------------------------------------------------------------------------

    def advance(self, watermark_ms: int) -> None:
        """Move the clocks of this rank's parts up to ``watermark_ms``, which all ranks give alike."""
        for part in self.parts:
            part.table.advance(watermark_ms)

    def sweep(self, buckets: int = BUCKETS) -> int:
        """Remove expired rows as far as ``buckets`` of the 1,024 reach, as ``Table.sweep`` does; rows of this rank.

        There is no bound on rows: where it falls would depend on the number of ranks.
        """
        return sum(part.table.sweep(buckets) for part in self.parts)

    def cut(self) -> int:
        """Close the current sequence in all of this rank's parts and return its number, which is that of all ranks."""
        closed = max([part.table.cut() for part in self.parts], default=0)
        for hot in self.hot_tables:
            hot.index.closed(closed)
        return closed

    def deltas(self, since: int) -> dict[str, Delta]:
        """What changed after sequence ``since`` in the buckets that this rank has, by table: a part of the delta.

        Raises what ``Table.delta`` does, GapError where one of the parts no longer knows what was removed since then.
        """
        by_name: dict[str, list[Delta]] = {}
        for part in self.parts:
            by_name.setdefault(part.division.native.name, []).append(part.delta(since))
        return {name: joined(parts) for name, parts in by_name.items()}

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write all tables below ``folder``, a file for each part and, last, the manifest. Collective.

        It is whole only with its manifest. All ranks return once it is there. Raises OSError on every rank if one has
        it, and leaves no manifest then.
        """
        save(self.transport, self.divisions, self.parts, folder)

    def stats(self) -> dict[str, dict[str, int]]:
        """What each table holds and what has happened to it, over all ranks: table -> name -> number. Collective."""
        names = [*HAPPENED, *HELD]
        sums = np.zeros((len(self.divisions), len(names)), np.int64)
        for part in self.parts:
            stats = part.table.stats()
            sums[part.number] += np.array([getattr(stats, name) for name in names], np.int64)
        every = self.transport.gather(sums.reshape(-1)).sum(axis=0).reshape(sums.shape)
        return {
            division.native.name: dict(zip(names, map(int, row), strict=True))
            for division, row in zip(self.divisions, every, strict=True)
        }

    @contextmanager
    def _writing(self) -> Iterator[None]:
        held: list[Table] = []
        try:
            for table in sorted((part.table for part in self.parts), key=id):
                table.writer.acquire()
                held.append(table)
            yield
        finally:
            for table in held:
                table.writer.release()


class Asking:
    """Ids on their way to their owners, and those of others on their way here."""

    def __init__(self, send: Callable[[], tuple[Questions, Messages]], *, at_once: bool) -> None:
        self._send = send
        self._sent = send() if at_once else None

    def begin(self) -> None:
        """Send the ids themselves, after their numbers. Collective; ``forward`` does it if nobody did."""
        if self._sent is not None:
            self._sent[1].begin()

    def sent(self) -> tuple[Questions, Messages]:
        """What was asked, and the messages on their way. Collective, if nothing was sent yet."""
        if self._sent is None:
            self._sent = self._send()
        return self._sent


class ShardedStep:
    """A step that was begun with ``ShardedCollection.forward``: this rank's vectors, waiting for their gradients."""

    def __init__(
        self, collection: ShardedCollection, questions: Questions, steps: Sequence[PartStep], vectors: Matrix
    ) -> None:
        self.vectors = vectors  # (batch, sum of dims) float32
        self._collection: ShardedCollection | None = collection  # None once applied
        self._questions = questions
        self._steps = steps
        self.ranks = collection.transport.ranks

    def apply_matrix(self, grads: Matrix, shared_by: int = 1) -> None:
        """One optimizer step for each unique id of the global batch: ``grads`` are those of this rank's vectors.

        (batch, sum of dims) float32, each divided by ``shared_by``. Collective. Raises on every rank, before any table
        of any rank is changed: NonFiniteError. Raises on this rank alone InputError, for gradients of another shape or
        a second call.
        """
        collection = self._collection
        if collection is None:
            raise InputError(
                "backward ran a second time through the same lookup, and its update is already in the tables: "
                "run forward again for every backward"
            )
        wanted = (self._questions.samples, sum(collection.dims))
        if grads.dtype != np.float32 or grads.shape != wanted:
            raise InputError(f"the gradient is {grads.dtype} of shape {grads.shape}, this step needs float32 {wanted}")
        grads = grads if grads.strides[1] == grads.itemsize else np.ascontiguousarray(grads)
        room = self._sent_to_owners(collection, grads, shared_by)
        for step, begins in zip(self._steps, room.from_ranks, strict=True):
            step.take(room.flat, begins)
        with collection._writing():
            share_gradients(collection.transport, self._steps)
            self._check(collection)
            norms = global_norms(collection.transport, self._steps, exact=collection.exact)
            for step in self._steps:
                step.apply(norms[step.part.number])
            end_step(
                collection.transport, collection.hot_tables, collection.parts, self._questions.tables, grads, shared_by
            )
        self._collection = None

    def _sent_to_owners(self, collection: ShardedCollection, grads: Matrix, shared_by: int) -> Room:
        tables = self._questions.tables
        given = np.diff([table.gradient_ends() for table in tables], axis=1, prepend=0).T
        wanted = np.array([[step.received(rank) for step in self._steps] for rank in range(self.ranks)], np.int64)
        room = collection.transport.room(given * collection.table_dims, wanted * collection.part_dims)
        for reading in collection.readings:
            reading.gradients(tables, grads, shared_by, room.flat, room.to_ranks)
        room.exchange()
        return room

    def _check(self, collection: ShardedCollection) -> None:
        found = np.array([-1, 0, 0], np.int64)  # the number of a table, and an id of it, or 1 and the number of a row
        for step in self._steps:
            position = step.collect()
            if position >= 0 and found[0] < 0:
                found[:] = step.part.number, *step.named(position)
        for number, is_shared, key in collection.transport.gather(found).tolist():
            if number >= 0:
                what = f"{'shared row' if is_shared else 'key'} {key}"
                raise NonFiniteError(_refused(collection.divisions[number].config, what))


def _table(division: Division, part: int, number: int, saved: SavedCollection | None) -> Table:
    config, buckets = division.part_config(), division.buckets(part)
    if saved is None:
        return division.native.new(config, buckets)
    table = saved.open(number, config, buckets)
    division.native.check(table, saved.folder)
    return table


def _refused(config: TableConfig, what: str) -> str:
    return (
        f"a gradient of table {config.name!r} ({what}) holds NaN, infinity or a size that its optimizer does not "
        f"bear, or its sum with its repeats does; no table of any rank was changed: lower the learning rate, or set "
        f"on_nonfinite to skip_row or clip"
    )
