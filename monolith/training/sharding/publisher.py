"""One store, filled by all ranks: each hands in the delta of its own buckets, and a sequence becomes visible whole.

Rank 0 leads: it has the hold on the store, the history and the back-off of ``serving.publisher``. What takes all ranks
it says in *orders*, which the others follow until it says that the call is done:

make   every rank makes the delta of its buckets since a sequence; all have it, or all try an image
stage  every rank stages its part (``serving.staging``); with the receipts of all, rank 0 commits

A rank that dies in between is noticed by the process group; the store then has the sequence before, and the parts that
were staged are swept when the job begins again. Replicas cannot tell how many ranks there were.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from monolith import errors
from monolith.card import ModelCard
from monolith.errors import EventError, GapError, MonolithError, UnavailableError
from monolith.serving.history import History
from monolith.serving.publisher import MakeDelta, Published, Publisher
from monolith.serving.staging import Receipt, Ticket
from monolith.serving.store import Store
from monolith.tables.delta import ModelDelta
from monolith.training.sharding.transport import Transport

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class _Make:
    since: int


@dataclass(frozen=True, slots=True)
class _Failure:
    """A MonolithError on its way to the other ranks."""

    kind: str
    text: str

    @classmethod
    def of(cls, error: MonolithError) -> _Failure:
        kinds = [kind.__name__ for kind in type(error).__mro__ if kind is not EventError]
        return cls(next(kind for kind in kinds if hasattr(errors, kind)), str(error))

    def error(self, rank: int) -> MonolithError:
        return cast(MonolithError, getattr(errors, self.kind)(f"rank {rank}: {self.text}"))


@dataclass(frozen=True, slots=True)
class _Done:
    """The end of a call: what rank 0 has."""

    call: str
    result: Any
    failure: _Failure | None
    held_sequence: int
    generation: int | None
    failures: int


class ShardedPublisher:
    """The ranks' common hold on one store: as ``serving.Publisher``, on all ranks of ``transport``.

    ``store`` is opened by each rank for itself, from one URL; an LMDB store takes ranks of one machine. For one thread.
    Methods that say "collective" are called by all ranks in the same order, and return or raise the same on all; a
    MonolithError of one rank is raised on all, with its rank.
    """

    def __init__(self, transport: Transport, store: Store) -> None:
        self._transport = transport
        self._store = store
        self._leader = Publisher(store, self._stage_and_commit) if transport.rank == 0 else None
        self._make_delta: MakeDelta | None = None
        self._part: ModelDelta | None = None  # made, and not staged yet
        self._done = _Done("", None, None, 0, None, 0)

    @property
    def held_sequence(self) -> int:
        """The sequence that the store was known to hold after the last collective call, 0 while that is unknown."""
        return self._done.held_sequence

    @property
    def generation(self) -> int | None:
        """The job's generation, None until the store was reached for the first time."""
        return self._done.generation

    @property
    def failures(self) -> int:
        """Tries that found the store away, since the start."""
        return self._done.failures

    def start(self, card: ModelCard, graph: bytes = b"", history: History | None = None) -> None:
        """Take the store over; what rank 0 gives counts. Collective; see ``Publisher.start``."""
        self._call("start", lambda leader: leader.start(card, graph, history))

    def publish(self, sequence: int, make_delta: MakeDelta) -> Published:
        """Bring the store up to ``sequence`` unless it is there already. Collective; see ``Publisher.publish``.

        ``make_delta(since)`` gives the delta of the buckets that this rank has; all but the tables is read on rank 0.
        """
        self._make_delta = make_delta
        return self._call("publish", lambda leader: leader.publish(sequence, self._made_by_all))

    def tend(self, sequence: int, make_delta: MakeDelta) -> None:
        """In quiet times: see that the store still has ``sequence``. Collective; see ``Publisher.tend``."""
        self._make_delta = make_delta
        self._call("tend", lambda leader: leader.tend(sequence, self._made_by_all))

    def lacks(self, sequence: int) -> bool:
        """Whether a look found that ``sequence`` is not there. Collective; see ``Publisher.lacks``."""
        return self._call("lacks", lambda leader: leader.lacks(sequence))

    def drain(self, timeout_s: float) -> bool:
        """Wait until the store holds what was published last. Collective; see ``Publisher.drain``."""
        return self._call("drain", lambda leader: leader.drain(timeout_s))

    def beat(self) -> None:
        """Let replicas know that the job lives; rank 0 does it. Not collective."""
        if self._leader is not None:
            self._leader.beat()

    def close(self) -> None:
        """Let go of the store. Not collective."""
        self._store.close()

    def _call(self, name: str, lead: Callable[[Publisher], _T]) -> _T:
        """Rank 0 leads, the others follow its orders until it is done."""
        if self._leader is None:
            order = self._hear()
            while not isinstance(order, _Done):
                self._follow(order)
                order = self._hear()
            if order.call != name:
                raise RuntimeError(f"rank 0 made the call {order.call}, rank {self._transport.rank} the call {name}")
            self._end(order)
            if order.failure is not None:
                raise order.failure.error(0)
            return cast(_T, order.result)
        try:
            result = lead(self._leader)
        except MonolithError as error:
            self._say_done(name, self._leader, None, _Failure.of(error))
            raise
        self._say_done(name, self._leader, result, None)
        return result

    def _say_done(self, name: str, leader: Publisher, result: object, failure: _Failure | None) -> None:
        self._end(_Done(name, result, failure, leader.held_sequence, leader.generation, leader.failures))
        self._say(self._done)

    def _end(self, done: _Done) -> None:
        self._done, self._part = done, None

    # --- what takes all ranks -----------------------------------------------------------------------------------------

    def _made_by_all(self, since: int) -> ModelDelta:
        """On rank 0, ``make_delta`` of all ranks at once; its own delta. Raises GapError where one of them has it."""
        self._say(_Make(since))
        self._agreed(self._make(since))
        if self._part is None:
            raise RuntimeError("a rank made no delta and told of no failure")
        return self._part

    def _stage_and_commit(self, delta: ModelDelta, generation: int, lineage: str) -> bool:
        """On rank 0, ``Store.apply`` of the parts of all ranks."""
        span = delta.base_sequence, delta.sequence
        ticket = self._store.begin(*span, self._transport.ranks, generation, lineage)
        if ticket is None:
            return False
        self._say(ticket)
        receipts = self._agreed(self._stage(ticket))
        return self._store.commit(ticket, cast(list[Receipt], receipts), delta)

    def _follow(self, order: object) -> None:
        if isinstance(order, _Make):
            self._transport.objects(self._make(order.since))
        elif isinstance(order, Ticket):
            self._transport.objects(self._stage(order))
        else:
            raise RuntimeError(f"rank 0 said {order!r}, which is no order")

    def _make(self, since: int) -> _Failure | None:
        if self._make_delta is None:
            raise RuntimeError("nothing was published yet")
        try:
            self._part = self._make_delta(since)
        except MonolithError as error:
            return _Failure.of(error)
        return None

    def _stage(self, ticket: Ticket) -> Receipt | _Failure:
        if self._part is None:
            raise RuntimeError("no delta was made yet")
        try:
            return self._store.stage(ticket, self._transport.rank, self._part.tables)
        except MonolithError as error:
            return _Failure.of(error)

    def _agreed(self, mine: Receipt | _Failure | None) -> list[object]:
        """What each rank has. Raises its error if one has none: another than those that are tried again, or a gap."""
        told = self._transport.objects(mine)
        found = [one.error(rank) for rank, one in enumerate(told) if isinstance(one, _Failure)]
        if found:
            raise min(found, key=lambda error: (isinstance(error, UnavailableError), isinstance(error, GapError)))
        return told

    def _say(self, order: object) -> None:
        self._transport.objects(order)

    def _hear(self) -> object:
        return self._transport.objects(None)[0]
