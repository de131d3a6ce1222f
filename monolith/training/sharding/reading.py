"""Reading a job's streams on all ranks: each its own partitions, as rank 0 says (`streaming.part_messages`)."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar, cast

import msgspec
import numpy as np

from monolith.config import JobConfig
from monolith.config.changes import job_under
from monolith.config.deciding import Settings, settings_of
from monolith.streaming.heads import HeadInlet
from monolith.streaming.journal import Journal
from monolith.streaming.lanes import Inlet
from monolith.streaming.part_messages import Heads, Join, Keep, Look, PartWork, Stand, Take, Write
from monolith.streaming.part_reader import PartReader
from monolith.streaming.steps import StepReader
from monolith.tables.batch import Batch, Ints
from monolith.training.sharding import orders
from monolith.training.sharding.dealing import Deal, dealt, weights_by_batch
from monolith.training.sharding.leader import LeadingLearner, answer_of, raise_of
from monolith.training.sharding.learner import Part
from monolith.training.sharding.orders import Channel
from monolith.training.sharding.transport import Transport

T = TypeVar("T")


class OpenStreams(msgspec.Struct, frozen=True, array_like=True, tag="open"):
    """Open the streams under these settings of the run; those that were open are closed."""

    settings: Settings


class CloseStreams(msgspec.Struct, frozen=True, array_like=True, tag="close"):
    """Close the streams."""


Work = OpenStreams | CloseStreams | Deal | Look | Take | Join | Keep | Write | Stand

_WORK: msgspec.msgpack.Decoder[Work] = msgspec.msgpack.Decoder(Work)


class RankReader:
    """A rank's part of the reading, and its shares of the batches that come of it."""

    def __init__(self, job: JobConfig) -> None:
        self._job = job
        self.dealt: deque[Part] = deque()  # those that were not trained on yet
        self.part: PartReader | None = None
        self._transport: Transport | None = None
        self._job_now = job  # under the settings of the steps that are read

    def do_bytes(self, work: bytes) -> bytes:
        """`do`, between processes."""
        return msgspec.msgpack.encode(self.do(_WORK.decode(work)))

    def do(self, work: Work) -> Any:
        """One piece of work; what rank 0 is to know of it. Raises what reading does."""
        if isinstance(work, OpenStreams):
            return self._open(work.settings)
        if isinstance(work, CloseStreams):
            return self.close()
        assert self.part is not None, "rank 0 has work before it opened the streams"
        if isinstance(work, Deal):
            return self._deal(self.part, work)
        does: dict[type, Callable[[Any], object]] = {
            Look: self.part.look,
            Take: self.part.take,
            Join: self.part.join,
            Keep: self.part.keep,
            Write: self.part.write,
            Stand: self.part.stand,
        }
        return does[type(work)](work)

    def _open(self, settings: Settings) -> None:
        self.close()
        self._transport = Transport()
        self._job_now = job_under(self._job, settings, 0)
        self.part = PartReader(self._job_now, self._transport.rank, self._transport.ranks, time.monotonic)

    def _deal(self, part: PartReader, deal: Deal) -> None:
        assert part.batch is not None
        assert self._transport is not None
        to_all, size = self._job_now.sharding.exact, self._job_now.train.batch_size
        self.dealt.clear()  # of a step that was not to be trained on
        self.dealt += dealt(part.batch, deal, size, self._transport, to_all=to_all)

    def close(self) -> None:
        """Let go of the streams. Twice is fine."""
        self.dealt.clear()
        if self.part is not None:
            self.part.close()
            self.part = None


class LeadingReaders:
    """Rank 0's `PartReaders`: its own part, and those of all other ranks. Of rank 0's thread."""

    def __init__(self, job: JobConfig, channel: Channel) -> None:
        """Open the streams on all ranks. Raises as `open_inlets`, on account of any rank."""
        self._job, self._channel = job, channel
        self._own = RankReader(job)
        self.dealt = self._own.dealt
        try:
            self._ask([OpenStreams(settings_of(job))] * channel.ranks)
        except BaseException:
            self._own.close()
            raise
        assert self._own.part is not None
        part = self._own.part
        self.inlets: list[Inlet] = [HeadInlet(job, inlet, self, part.settle) for inlet in part.inlets]

    def look(self, look: Look) -> Sequence[Heads]:
        """See `PartReaders`."""
        return self.do(look, Heads)

    def do(self, work: PartWork, answer: type[T]) -> list[T]:
        """See `PartReaders`."""
        own, others = self._ask([work] * self._channel.ranks)
        return [cast(T, own), *(msgspec.msgpack.decode(data, type=answer) for data in others)]

    def deal(self, places: Sequence[Ints], batch: Batch) -> Batch:
        """See `PartReaders`."""
        assert self._own.part is not None
        assert self._own.part.batch is not None
        if len(batch):
            weights = [list(each) for each in weights_by_batch(batch, self._job.train.batch_size)]
            deals = [Deal(np.ascontiguousarray(each, "<i8").tobytes(), len(batch), weights) for each in places]
            self._ask(deals)
        return self._own.part.batch

    def _ask(self, works: Sequence[Work]) -> tuple[Any, list[bytes]]:
        """What rank 0's own work gives, and the others' answers; raises the first error, once all have answered."""
        said: list[Any] = []

        def own() -> bytes:
            said.append(self._own.do(works[0]))
            return b""

        encoded = {id(work): orders.Read(msgspec.msgpack.encode(work)) for work in works[1:]}
        self._channel.tell_each([encoded[id(work)] for work in works[1:]])
        answers = [answer_of(own), *self._channel.answers()]
        for rank, answer in enumerate(answers):
            if answer.error:
                raise_of(rank, answer)
        return said[0], [answer.data for answer in answers[1:]]

    def close(self) -> None:
        """See `PartReaders`. Ranks that have ended, maybe for the reason that this one closes, have nothing open."""
        if self._own.part is not None:
            with suppress(RuntimeError):
                self._ask([CloseStreams()] * self._channel.ranks)
            self._own.close()


class Leading:
    """What rank 0 makes a run's parts with, so that all ranks have a hand in it."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._readers: LeadingReaders | None = None

    def open_steps(self, job: JobConfig, journal: Journal, *, replay_only: bool, until: int | None) -> StepReader:
        """As `StepReader.open`; where the job's streams are co-partitioned, all ranks read."""
        self._readers = None
        if job.input.co_partitioned and self._channel.ranks > 1:
            self._readers = LeadingReaders(job, self._channel)
        return StepReader.open(job, journal, replay_only=replay_only, until=until, readers=self._readers)

    def new_learner(self, job: JobConfig, step: int) -> LeadingLearner:
        """The learner of the steps from ``step`` on."""
        dealt = None if self._readers is None else self._readers.dealt
        return LeadingLearner(job, self._channel, step, dealt)
