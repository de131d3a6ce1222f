"""What every rank but rank 0 runs: the orders of rank 0, one after the other, until the run is over."""

from __future__ import annotations

from pathlib import Path
from typing import assert_never

import msgspec
import numpy as np

from monolith.config import JobConfig
from monolith.config.changes import job_under
from monolith.serving.store import Store, open_store
from monolith.tables.batch_bytes import from_bytes
from monolith.training.sharding import orders
from monolith.training.sharding.leader import answer_of, staged
from monolith.training.sharding.learner import DividedLearner, Part
from monolith.training.sharding.orders import Channel, Order
from monolith.training.sharding.own_parts import check_same_snapshot, contained, own_stats, saved_bytes
from monolith.training.sharding.reading import RankReader
from monolith.training.sharding.rejoining import rejoined, watch

Answered = orders.Rejoin | orders.Make | orders.Stage | orders.Save | orders.Load | orders.Count | orders.Contains
OfALearner = orders.Train | orders.Advance | orders.Cut | orders.LoadDense | orders.Watch | Answered


def follow(job: JobConfig, channel: Channel) -> orders.End:
    """Do what rank 0 says until it says that the run is over, and how it ended."""
    follower = _Follower(job, channel)
    try:
        while not isinstance(order := channel.order(), orders.End):
            follower.do(order)
    finally:
        follower.close()
    return order


class _Follower:
    def __init__(self, job: JobConfig, channel: Channel) -> None:
        self._job, self._channel = job, channel
        self._learner: DividedLearner | None = None
        self._reader = RankReader(job)
        self._store: Store | None = None  # once something is staged

    def do(self, order: Order) -> None:
        if isinstance(order, orders.Open):
            self._channel.rescuer.watch(None)
            self._learner = None  # its memory goes before the next one's comes
            self._learner = DividedLearner(job_under(self._job, order.settings, order.step))
        elif isinstance(order, orders.Read):
            self._channel.answer(answer_of(lambda: self._reader.do_bytes(order.work)))
        elif not isinstance(order, orders.Beat | orders.End):
            assert self._learner is not None, "rank 0 gives orders before it opened a model"
            self._do(self._learner, order)

    def _do(self, learner: DividedLearner, order: OfALearner) -> None:
        match order:
            case orders.Train(shares, asks, dealt):
                brought = [*map(_part, shares), *(self._reader.dealt.popleft() for _ in range(dealt))]
                learner.train(brought, asks=asks)
            case orders.Advance(watermark_ms, sweep_rows):
                learner.advance(watermark_ms, sweep_rows)
            case orders.Cut():
                learner.cut()
            case orders.LoadDense(data):
                learner.load_dense_state(data)
            case orders.Watch(folder, step):
                watch(learner, self._channel, Path(folder), step)
            case _:
                self._channel.answer(answer_of(lambda: self._answered(learner, order)))

    def _answered(self, learner: DividedLearner, order: Answered) -> bytes:
        match order:
            case orders.Rejoin():
                return rejoined(learner, order)
            case orders.Make(since):
                return learner.make(since)
            case orders.Stage(ticket):
                return staged(learner, self._opened_store(), ticket)
            case orders.Save(folder):
                return saved_bytes(learner, Path(folder))
            case orders.Load(folder, manifest):
                return _loaded(learner, Path(folder), manifest)
            case orders.Count():
                return msgspec.msgpack.encode(own_stats(learner))
            case orders.Contains(table, keys):
                return contained(learner, table, np.frombuffer(keys, np.int64))
            case _:
                assert_never(order)

    def _opened_store(self) -> Store:
        if self._store is None:
            assert self._job.store is not None, "rank 0 has a store, and the ranks have one job"
            self._store = open_store(self._job.store, self._job.name)
        return self._store

    def close(self) -> None:
        """Let go of the streams and the store."""
        self._reader.close()
        if self._store is not None:
            self._store.close()


def _loaded(learner: DividedLearner, folder: Path, manifest: int) -> bytes:
    check_same_snapshot(folder, manifest, learner.rank)
    learner.load_own(folder)
    return b""


def _part(share: orders.Share) -> Part:
    return Part(from_bytes(share.batch), share.samples, share.scales)
