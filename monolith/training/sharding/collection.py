"""Tables whose rows are divided between the ranks of a process group, stepped together: `tables.collection`, on many.

Each rank brings its own batch; together these are the global batch, by rank. A step is the one that a single process
would make of the global batch: which ids are counted, admitted, expired and evicted is the same for every number of
ranks, and so are the rows, bit by bit where ``exact`` is set, else up to the order in which float32 gradients are
added (``docs/sharding.md``).

Every method that says "collective" must be called by all ranks, in the same order.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch.distributed as dist

from monolith.config.table import TableConfig
from monolith.errors import InputError, NonFiniteError
from monolith.events import WATERMARK_START
from monolith.tables import Table
from monolith.tables.arguments import EventTimes, Matrix
from monolith.tables.batch import Bag
from monolith.tables.buckets import BUCKETS
from monolith.tables.collection import Output
from monolith.tables.delta import Delta, joined
from monolith.tables.outputs import empty_matrix
from monolith.tables.stats import HAPPENED, HELD
from monolith.training.sharding.agreement import check_agreed
from monolith.training.sharding.answers import OwnPart, PartStep, questioners
from monolith.training.sharding.clipping import global_norms
from monolith.training.sharding.division import LIMIT_PARTS, Division
from monolith.training.sharding.questions import LOOKUP, STEP, Questions
from monolith.training.sharding.saved import SavedCollection, save
from monolith.training.sharding.transport import Messages, Transport, Wire

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


class ShardedCollection:
    """``configs`` divided between the ranks of ``group`` (None: all ranks). Collective.

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
        group: dist.ProcessGroup | None = None,
        *,
        exact: bool = False,
        wire: Wire = "float32",
        limit_parts: int = LIMIT_PARTS,
        folder: str | os.PathLike[str] | None = None,
    ) -> None:
        self.transport = Transport(group, wire)
        self.exact = exact
        self.outputs = tuple(outputs)
        self.divisions = [Division(config, self.transport.ranks, limit_parts) for config in configs]
        check_agreed(self.transport, configs, {"exact": exact, "wire": wire, "limit_parts": limit_parts})
        of_table = {config.name: config.dim for config in configs}
        self.dims = tuple(of_table[out.table] for out in outputs)
        saved = None if folder is None else SavedCollection(folder, [config.name for config in configs])
        self.parts = [
            OwnPart(number, division, part, _table(division, part, number, saved))
            for number, division in enumerate(self.divisions)
            for part in division.of(self.transport.rank)
        ]

    @property
    def tables(self) -> dict[str, list[Table]]:
        """The parts of each table that this rank has."""
        return {
            division.config.name: [part.table for part in self.parts if part.number == number]
            for number, division in enumerate(self.divisions)
        }

    def replace_parts(self, parts: Sequence[Table]) -> None:
        """Go on with other tables in the places of ``parts``, of the same buckets and rules. Raises InputError."""
        if [table.buckets for table in parts] != [part.table.buckets for part in self.parts]:
            raise InputError(
                "the parts do not have the buckets of those that they replace: open them for the same ranks"
            )
        self.parts = [replace(old, table=new) for old, new in zip(self.parts, parts, strict=True)]

    # --- a step -------------------------------------------------------------------------------------------------------

    def ask(self, bags: Sequence[Bag], event_time_ms: EventTimes = None) -> Asking:
        """Begin to send the ids of ``bags``, one for each output: so that they travel beside other work. Collective.

        Nothing is changed in any table before ``forward`` of what this returns. Raises InputError on this rank alone,
        for bags that are malformed: the others then wait for it until their time-out.
        """
        questions = Questions(self.divisions, bags, event_time_ms, STEP, in_order=self.exact)
        return Asking(questions, self.transport.send(questions.messages(self.transport.ranks)))

    def forward(self, bags: Sequence[Bag] | Asking, event_time_ms: EventTimes = None) -> ShardedStep:
        """Observe the ids of the global batch and pool this rank's vectors. Collective.

        ``event_time_ms`` is one time, one for each of this rank's samples (batch,) int64, or None: the clocks stand;
        all ranks give the same kind. Raises InputError before any table is changed.
        """
        asking = bags if isinstance(bags, Asking) else self.ask(bags, event_time_ms)
        return self.forward_messages(asking.questions, asking.messages.wait())

    def forward_messages(self, questions: Questions, messages: Sequence[Ints]) -> ShardedStep:
        """``forward``, where the ``questions`` were sent by other means, and the ranks' ``messages`` came."""
        steps = self._part_steps(messages)
        return ShardedStep(self, questions, steps, self._vectors(questions, [step.counts for step in steps], steps))

    def lookup(self, bags: Sequence[Bag]) -> Matrix:
        """The pooled vectors of this rank, (batch, sum of dims) float32; no table is changed. Collective."""
        questions = Questions(self.divisions, bags, None, LOOKUP, in_order=False)
        return self.lookup_messages(questions, self.transport.send(questions.messages(self.transport.ranks)).wait())

    def lookup_messages(self, questions: Questions, messages: Sequence[Ints]) -> Matrix:
        """``lookup``, where the ``questions`` were sent by other means."""
        asked = [reader.read(self.parts, in_order=False) for reader in questioners(messages, len(self.divisions))]
        answers = [_Read(part.table, [one[k].ids for one in asked]) for k, part in enumerate(self.parts)]
        return self._vectors(questions, [answer.counts for answer in answers], answers)

    def _part_steps(self, messages: Sequence[Ints]) -> list[PartStep]:
        readers = questioners(messages, len(self.divisions))
        asked = [reader.read(self.parts, in_order=self.exact) for reader in readers]
        clocks = np.max([reader.latest for reader in readers], axis=0, initial=WATERMARK_START)
        return [
            PartStep(part, [one[k] for one in asked], int(clocks[part.number]), in_order=self.exact)
            for k, part in enumerate(self.parts)
        ]

    def _vectors(
        self, questions: Questions, counts: Sequence[Sequence[int]], answers: Sequence[PartStep | _Read]
    ) -> Matrix:
        """The rows go to who asked for them, and this rank's come: pooled, (batch, sum of dims)."""
        blocks = [np.split(answer.rows, np.cumsum(own)[:-1]) for answer, own in zip(answers, counts, strict=True)]
        flat = self._exchange(
            [[block[rank] for block in blocks] for rank in range(self.transport.ranks)],
            [self._floats_asked(questions, rank) for rank in range(self.transport.ranks)],
        )
        out = empty_matrix(questions.samples, sum(self.dims))
        columns = np.cumsum([0, *self.dims]).tolist()
        done = 0
        for table, rows in zip(questions.tables, self._by_table(questions, flat), strict=True):
            outs = [out[:, columns[done + k] : columns[done + k + 1]] for k in range(len(table.bags))]
            table.pool(rows, outs)
            done += len(table.bags)
        return out

    def _floats_asked(self, questions: Questions, rank: int) -> int:
        return sum(table.asked_of(rank) * table.division.config.dim for table in questions.tables)

    def _by_table(self, questions: Questions, from_ranks: Sequence[Floats]) -> Iterator[Floats]:
        """The rows of each table, (ids asked for, dim), out of what the ranks sent."""
        taken = [0] * len(from_ranks)
        for table in questions.tables:
            dim = table.division.config.dim
            pieces = []
            for rank, floats in enumerate(from_ranks):
                size = table.asked_of(rank) * dim
                pieces.append(floats[taken[rank] : taken[rank] + size])
                taken[rank] += size
            yield (pieces[0] if len(pieces) == 1 else np.concatenate(pieces)).reshape(-1, dim)

    def _exchange(self, to_ranks: Sequence[Sequence[Floats]], floats_back: Sequence[int]) -> list[Floats]:
        """Floats of any shape for each rank; what comes from each, flat."""
        sizes = [sum(array.size for array in arrays) for arrays in to_ranks]
        flat = np.concatenate([array.reshape(-1) for arrays in to_ranks for array in arrays] or [_NO_FLOATS])
        back = self.transport.vectors(flat, sizes, floats_back)
        return np.split(back, np.cumsum(floats_back)[:-1])

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
        return max([part.table.cut() for part in self.parts], default=0)

    def deltas(self, since: int) -> dict[str, Delta]:
        """What changed after sequence ``since`` in the buckets that this rank has, by table: a part of the delta.

        Raises what ``Table.delta`` does, GapError where one of the parts no longer knows what was removed since then.
        """
        return {name: joined([part.delta(since) for part in parts]) for name, parts in self.tables.items()}

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
            division.config.name: dict(zip(names, map(int, row), strict=True))
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

    def __init__(self, questions: Questions, messages: Messages) -> None:
        self.questions = questions
        self.messages = messages

    def begin(self) -> None:
        """Send the ids themselves, after their numbers. Collective; ``forward`` does it if nobody did."""
        self.messages.begin()


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

    def apply_matrix(self, grads: Matrix) -> None:
        """One optimizer step for each unique id of the global batch: ``grads`` are those of this rank's vectors.

        (batch, sum of dims) float32. Collective. Raises on every rank, before any table of any rank is changed:
        NonFiniteError. Raises on this rank alone InputError, for gradients of another shape or a second call.
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
        received = self._sent_to_owners(collection, grads)
        with collection._writing():
            self._check(collection, received)
            norms = global_norms(collection.transport, self._steps, exact=collection.exact)
            for step in self._steps:
                step.apply(norms[step.part.number])
        self._collection = None

    def _sent_to_owners(self, collection: ShardedCollection, grads: Matrix) -> list[list[Floats]]:
        """Of each part, the gradients that each rank sent."""
        ranks = range(collection.transport.ranks)
        to_ranks: list[list[Floats]] = [[] for _ in ranks]
        columns = np.cumsum([0, *collection.dims]).tolist()
        done = 0
        for table in self._questions.tables:
            own = [grads[:, columns[done + k] : columns[done + k + 1]] for k in range(len(table.bags))]
            sums = table.gradients(own)
            for arrays, piece in zip(to_ranks, table.split_by_rank(sums, len(ranks)), strict=True):
                arrays.append(piece)
            done += len(table.bags)
        back = [sum(step.received(rank) * step.part.table.dim for step in self._steps) for rank in ranks]
        flat = collection._exchange(to_ranks, back)
        return list(_by_part(flat, self._steps))

    def _check(self, collection: ShardedCollection, received: Sequence[Sequence[Floats]]) -> None:
        found = np.array([-1, 0], np.int64)  # the number of a table, and an id of it
        for step, grads in zip(self._steps, received, strict=True):
            position = step.collect(grads)
            if position >= 0 and found[0] < 0:
                found[:] = step.part.number, step.id_at(position)
        for number, own_id in collection.transport.gather(found).tolist():
            if number >= 0:
                raise NonFiniteError(_refused(collection.divisions[number].config, own_id))


def _table(division: Division, part: int, number: int, saved: SavedCollection | None) -> Table:
    config, buckets = division.part_config(), division.buckets(part)
    return Table(config, buckets=buckets) if saved is None else saved.open(number, config, buckets)


class _Read:
    """Rows that were only looked up, by rank."""

    def __init__(self, table: Table, ids: Sequence[Ints]) -> None:
        self.counts = [len(own) for own in ids]
        self.rows = table.lookup(np.concatenate(list(ids)))


def _by_part(flat: Sequence[Floats], steps: Sequence[PartStep]) -> Iterator[list[Floats]]:
    """What each rank sent for each part, (n, dim), out of all that it sent."""
    taken = [0] * len(flat)
    for step in steps:
        dim = step.part.table.dim
        pieces = []
        for rank, floats in enumerate(flat):
            size = step.received(rank) * dim
            pieces.append(floats[taken[rank] : taken[rank] + size].reshape(-1, dim))
            taken[rank] += size
        yield pieces


def _refused(config: TableConfig, own_id: int) -> str:
    return (
        f"a gradient of table {config.name!r} (key {own_id}) holds NaN, infinity or a size that its optimizer does not "
        f"bear, or its sum with its repeats does; no table of any rank was changed: lower the learning rate, or set "
        f"on_nonfinite to skip_row or clip"
    )


_NO_FLOATS = np.zeros(0, np.float32)
