"""Rank 0's learner, which a `Trainer` drives as it drives a single process's: every call is an order to all ranks."""

from __future__ import annotations

import secrets
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NoReturn, cast

import msgspec
import numpy as np
import numpy.typing as npt
import xxhash

from monolith import errors
from monolith.config import JobConfig
from monolith.config.deciding import settings_of
from monolith.config.table import TableConfig
from monolith.errors import CorruptError, InputError
from monolith.serving.publisher import HandOver
from monolith.serving.staging import Receipt, Ticket
from monolith.serving.store import Store
from monolith.tables.arguments import Ids
from monolith.tables.batch import Batch
from monolith.tables.batch_bytes import to_bytes
from monolith.tables.delta import ModelDelta
from monolith.tables.embedding import Embedding
from monolith.tables.stats import TableStats
from monolith.training.dense_state import dense_weights
from monolith.training.learner import Predictions
from monolith.training.sharding import orders
from monolith.training.sharding.learner import DividedLearner, Part, bounds, scales_of, weights_of
from monolith.training.sharding.orders import Answer, Channel, Order
from monolith.training.sharding.own_parts import (
    contained,
    manifest_checksum,
    own_stats,
    saved_bytes,
)
from monolith.training.sharding.rejoining import rejoined, watch
from monolith.training.sharding.rescue import FOLDER, Rescue, remove
from monolith.training.snapshot import Entries, FileEntry

_BEAT_S = 1.0


class LeadingLearner(DividedLearner):
    """A learner whose tables are on all ranks. Of rank 0's thread; the others run `follower.follow`."""

    def __init__(self, job: JobConfig, channel: Channel, step: int = 0, dealt: deque[Part] | None = None) -> None:
        """``dealt``: where rank 0's parts of batches come in, if each rank has its own already.

        Raises ConfigError, on all ranks, for a job that cannot be divided.
        """
        self._dealt = dealt
        self.channel = channel
        self._brought: Batch | None = None  # the batch that the others have ahead
        self._counted: dict[str, TableStats] | None = None  # since the last order that changes a table
        self._next_beat = 0.0
        channel.rescuer.watch(None)
        self._tell(orders.Open(settings_of(job), step))
        super().__init__(job)
        self._tables = {name: DividedTable(table, self) for name, table in self._configs().items()}

    def _configs(self) -> dict[str, TableConfig]:
        return {table.name: table for table in self.job.tables}

    @property
    def tables(self) -> Mapping[str, Embedding]:
        """The tables by name: what rank 0 asks of them."""
        return cast(Mapping[str, Embedding], self._tables)

    # --- orders -------------------------------------------------------------------------------------------------------

    def step(self, batch: Batch, following: Batch | None = None) -> Predictions:
        """As a single process's; raises NonFiniteError, which all ranks then raise."""
        coming = ([] if self._brought is batch else [batch]) + ([] if following is None else [following])
        self._brought, asks = following, following is not None
        self._counted = None
        if self._dealt is None:
            shares = [self._shares(each) for each in coming]
            own = [share[0] for share in shares]
            self.channel.tell_each(self._orders(shares, asks=asks))
        else:
            own = [self._dealt.popleft() for _ in coming]
            self.channel.tell(orders.Train([], asks, len(coming)))
        said = self.train(own, asks=asks)
        assert said is not None
        return said

    def _orders(self, shares: Sequence[Sequence[Part]], *, asks: bool) -> list[Order]:
        """For each of the other ranks; one for all where each has all samples."""
        if self._has_all:
            return [orders.Train([_encoded(share[0]) for share in shares], asks)] * (self.ranks - 1)
        return [orders.Train([_encoded(share[rank]) for share in shares], asks) for rank in range(1, self.ranks)]

    def _shares(self, batch: Batch) -> list[Part]:
        """What each rank gets of it."""
        samples = len(batch)
        if self._has_all:
            return [Part(batch, samples, ())] * self.ranks
        ends = bounds(samples, self.ranks)
        pieces = [batch[begin:end] for begin, end in pairwise(ends)]
        whole = weights_of(batch)
        return [Part(piece, samples, scales_of(weights_of(piece), whole)) for piece in pieces]

    def score(self, batch: Batch) -> Predictions:
        """Not of a divided model: raises InputError."""
        raise InputError(f"{len(batch)} samples cannot be scored by ranks: `monolith evaluate` does, in one process")

    def advance(self, watermark_ms: int, sweep_rows: int) -> int:
        """As a single process's; the rows that went, of all ranks."""
        self._tell(orders.Advance(watermark_ms, sweep_rows))
        return super().advance(watermark_ms, sweep_rows)

    def cut(self) -> int:
        """Close the current sequence number on all ranks and return it."""
        self._tell(orders.Cut())
        return super().cut()

    def beat(self) -> None:
        """Tell the others, now and then, that rank 0 is there."""
        if time.monotonic() >= self._next_beat:
            self._tell(orders.Beat(), changes=False)

    def check_all_there(self) -> None:
        """Have every rank answer; raises RuntimeError of torch.distributed where one is gone."""
        self._ask_all(orders.Count(), lambda: b"", changes=False)

    def delta(
        self,
        since: int,
        *,
        sequence: int,
        step: int,
        watermark_ms: int,
        ingested_ms: npt.NDArray[np.int64],
        digest: str = "",
    ) -> ModelDelta:
        """Everything that changed after ``since`` in rank 0's parts; each rank has made its own, for `hand_over`.

        Raises as a single process's, on account of any rank.
        """
        if self.graph is not None and self._inputs:
            self.graph.check(self.model, self._inputs)
        self._ask_all(orders.Make(since), lambda: self.make(since), changes=False)
        return ModelDelta(
            base_sequence=since,
            sequence=sequence,
            step=step,
            watermark_ms=watermark_ms,
            tables=self.made,
            dense=dense_weights(self.model),
            ingested_ms=ingested_ms,
            digest=digest,
        )

    def hand_over(self, store: Store) -> HandOver | None:
        """How the delta that all ranks made gets into ``store``: staged by each, then visible at once."""
        if self.ranks == 1:
            return None

        def handed_over(delta: ModelDelta, generation: int, lineage: str) -> bool:
            ticket = store.begin(delta.base_sequence, delta.sequence, self.ranks, generation, lineage)
            if ticket is None:
                return False
            answers = self._ask_all(orders.Stage(ticket), lambda: staged(self, store, ticket), changes=False)
            receipts = [msgspec.msgpack.decode(answer.data, type=Receipt) for answer in answers]
            return store.commit(ticket, receipts, delta)

        return handed_over

    def save_tables(self, folder: Path) -> Entries:
        """Have every rank write its parts below ``folder``; all are durable then. Raises OSError if one cannot.

        Raises CorruptError, naming the rank, where a rank's dense part is not what rank 0's is.
        """
        folder = folder.resolve()
        entries: dict[str, FileEntry] = {}
        own = xxhash.xxh3_64_intdigest(self.dense_state())
        answers = self._ask_all(orders.Save(str(folder)), lambda: saved_bytes(self, folder), changes=False)
        for rank, answer in enumerate(answers):
            dense, files = msgspec.msgpack.decode(answer.data, type=tuple[int, dict[str, FileEntry]])
            entries |= files
            if dense != own:
                raise CorruptError(
                    f"rank {rank} has other dense weights than rank 0: are the machines of one kind, with the same "
                    f"torch? No snapshot was made of this; start again from the newest"
                )
        return entries

    def load_tables(self, folder: Path) -> None:
        """Have every rank take its parts out of a snapshot's tables. Raises what `Table.open` does, as any rank did.

        Raises ConfigError, naming the rank, where a rank finds another snapshot there.
        """
        folder = folder.resolve()

        def load() -> bytes:
            self.load_own(folder)
            return b""

        self._ask_all(orders.Load(str(folder), manifest_checksum(folder)), load)

    def begin(self, state: Path, step: int) -> None:
        """As a single process's; with ``sharding.partial_recovery`` ranks leave their rows there should one be lost."""
        remove(state)
        if self.job.sharding.partial_recovery:
            folder = (state / FOLDER / secrets.token_hex(8)).resolve()
            self._tell(orders.Watch(str(folder), step), changes=False)
            watch(self, self.channel, folder, step)

    def rejoin(self, rescue: Rescue, tables: Path, sequence: int) -> None:
        """Have every rank go on with the rows that it left, those of lost ranks with those of a snapshot's ``tables``.

        ``sequence`` is the newest that was cut. Raises as `load_tables`, and CorruptError for damage.
        """
        tables = tables.resolve()
        order = orders.Rejoin(str(rescue.folder), rescue.lost, str(tables), manifest_checksum(tables), sequence)
        self._ask_all(order, lambda: rejoined(self, order))
        self.load_dense_state(rescue.dense())

    def load_dense_state(self, data: bytes) -> None:
        """Continue from `dense_state` bytes, on all ranks."""
        self._tell(orders.LoadDense(data))
        super().load_dense_state(data)

    def stats_of(self, table: str) -> TableStats:
        """A table's statistics, over all ranks."""
        if self._counted is None:
            answers = self._ask_all(orders.Count(), lambda: msgspec.msgpack.encode(own_stats(self)))
            each = [msgspec.msgpack.decode(answer.data, type=dict[str, list[int]]) for answer in answers]
            self._counted = {
                name: TableStats(*map(sum, zip(*(one[name] for one in each), strict=True))) for name in self._configs()
            }
        return self._counted[table]

    def contains(self, table: str, keys: Ids) -> npt.NDArray[np.bool_]:
        """Which keys (n,) have a row on some rank."""
        order = orders.Contains(table, np.ascontiguousarray(keys, np.int64).tobytes())
        answers = self._ask_all(order, lambda: contained(self, table, keys), changes=False)
        found = [np.frombuffer(answer.data, np.bool_) for answer in answers]
        return cast("npt.NDArray[np.bool_]", np.logical_or.reduce(found))

    def _tell(self, order: Order, *, changes: bool = True) -> None:
        if changes:
            self._counted = None
        self._next_beat = time.monotonic() + _BEAT_S
        self.channel.tell(order)

    def _ask_all(self, order: Order, own: Callable[[], bytes], *, changes: bool = True) -> list[Answer]:
        """The answers of all ranks, by rank; raises the first error, once all have answered."""
        self._tell(order, changes=changes)
        answers = [answer_of(own), *self.channel.answers()]
        for rank, answer in enumerate(answers):
            if answer.error:
                raise_of(rank, answer)
        return answers


class DividedTable:
    """What rank 0's trainer asks of a table whose parts are on all ranks; as `Table` has it."""

    def __init__(self, config: TableConfig, learner: LeadingLearner) -> None:
        self.config, self.dim = config, config.dim
        self._learner = learner

    @property
    def one_table(self) -> DividedTable:
        """Itself: its keys are those of rows."""
        return self

    def __len__(self) -> int:
        return self.stats().rows

    def stats(self) -> TableStats:
        """What is held, what that takes, and what has happened to it, over all ranks."""
        return self._learner.stats_of(self.config.name)

    def contains(self, keys: Ids) -> npt.NDArray[np.bool_]:
        """Which keys (n,) have a row."""
        return self._learner.contains(self.config.name, keys)


def staged(learner: DividedLearner, store: Store, ticket: Ticket) -> bytes:
    """Stage a rank's part of the delta that was made last; the receipt. Raises as ``Store.stage``."""
    made, learner.made = learner.made, {}  # an image is as large as the tables: it is not kept until the next delta
    return msgspec.msgpack.encode(store.stage(ticket, learner.rank, made))


def answer_of(work: Callable[[], bytes]) -> Answer:
    """What ``work`` gives, or the error that it raises."""
    try:
        return Answer(work())
    except errors.MonolithError as error:
        kind = next(each.__name__ for each in type(error).__mro__ if hasattr(errors, each.__name__))
        return Answer(error="InputError" if kind == "EventError" else kind, text=str(error))
    except OSError as error:
        return Answer(error="OSError", text=f"{error.errno or 0} {error.strerror or error}")


def raise_of(rank: int, answer: Answer) -> NoReturn:
    """Raise the error that a rank answers with."""
    if answer.error == "OSError":
        number, _, text = answer.text.partition(" ")
        raise OSError(int(number), f"rank {rank}: {text}")
    raise getattr(errors, answer.error)(f"rank {rank}: {answer.text}" if rank else answer.text)


def _encoded(part: Part) -> orders.Share:
    return orders.Share(to_bytes(part.batch), part.samples, list(part.scales))
