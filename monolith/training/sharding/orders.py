"""What rank 0 tells the other ranks to do. It reads the streams and decides; each *order* is one call on all ranks.

An order goes out as one message to each rank, before rank 0 does its own part of the work. Only those that say so are
answered, each with one message to rank 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import torch
import torch.distributed as dist

from monolith.errors import CorruptError
from monolith.serving.staging import Ticket
from monolith.training.sharding.rescue import Rescuer


class Share(msgspec.Struct, frozen=True, array_like=True):
    """A rank's share of a batch: its samples, or all of them where the dense part is to be exact."""

    batch: bytes  # `tables.batch_bytes`
    samples: int  # of the whole batch
    scales: list[float]  # of each task: the share's weight in the mean over the whole batch


class Open(msgspec.Struct, frozen=True, array_like=True, tag="open"):
    """Be a learner under these settings of the run from ``step`` on; what there was before goes away."""

    settings: bytes
    step: int


class Train(msgspec.Struct, frozen=True, array_like=True, tag="train"):
    """Make a step on the share that came first of those that were not trained on; ``shares`` come now."""

    shares: list[Share]
    asks: bool  # whether the ids of the share after it are to be sent ahead
    dealt: int = 0  # shares that come behind these, from those that each rank has already


class Advance(msgspec.Struct, frozen=True, array_like=True, tag="advance"):
    """End a journal step: clocks to the watermark, and a sweep."""

    watermark_ms: int
    sweep_rows: int


class Cut(msgspec.Struct, frozen=True, array_like=True, tag="cut"):
    """Close the sequence."""


class Make(msgspec.Struct, frozen=True, array_like=True, tag="make"):
    """Make the delta of your parts since a sequence, and keep it; answer."""

    since: int


class Stage(msgspec.Struct, frozen=True, array_like=True, tag="stage"):
    """Hand the delta that was made to the store, as a part of this ticket's; answer with the receipt."""

    ticket: Ticket


class Save(msgspec.Struct, frozen=True, array_like=True, tag="save"):
    """Write your parts of the tables below ``folder``, durably, and answer with what was written."""

    folder: str


class Load(msgspec.Struct, frozen=True, array_like=True, tag="load"):
    """Go on with the tables below ``folder``, part of the snapshot whose manifest has this checksum; answer."""

    folder: str
    manifest: int


class LoadDense(msgspec.Struct, frozen=True, array_like=True, tag="load dense"):
    """Go on with these dense weights and their optimizer's state."""

    data: bytes


class Watch(msgspec.Struct, frozen=True, array_like=True, tag="watch"):
    """You stand after ``step``: should another rank be lost from now on, leave your rows below ``folder``."""

    folder: str
    step: int


class Rejoin(msgspec.Struct, frozen=True, array_like=True, tag="rejoin"):
    """Go on with what the ranks left below ``folder``, those of the ``lost`` with the snapshot's tables; answer.

    ``sequence`` is the newest that was cut.
    """

    folder: str
    lost: list[int]
    tables: str
    manifest: int
    sequence: int


class Count(msgspec.Struct, frozen=True, array_like=True, tag="count"):
    """Answer with the statistics of your parts."""


class Contains(msgspec.Struct, frozen=True, array_like=True, tag="contains"):
    """Answer with which keys of a table have a row in your parts; keys are int64."""

    table: str
    keys: bytes


class Read(msgspec.Struct, frozen=True, array_like=True, tag="read"):
    """Do a piece of work on the streams, see `reading`; answer."""

    work: bytes


class Beat(msgspec.Struct, frozen=True, array_like=True, tag="beat"):
    """Nothing is to be done: rank 0 is there."""


class End(msgspec.Struct, frozen=True, array_like=True, tag="end"):
    """The run is over; ``why``: it failed; ``is_final``: a new start would fail again."""

    why: str | None = None
    is_final: bool = True


Order = (
    Open
    | Train
    | Advance
    | Cut
    | Make
    | Stage
    | Save
    | Load
    | LoadDense
    | Watch
    | Rejoin
    | Count
    | Contains
    | Read
    | Beat
    | End
)

_ORDERS: msgspec.msgpack.Decoder[Order] = msgspec.msgpack.Decoder(Order)


class Answer(msgspec.Struct, frozen=True, array_like=True):
    """What a rank has to say, or the error that it met: the name of its class in `monolith.errors`, or ``OSError``."""

    data: bytes = b""
    error: str = ""
    text: str = ""


class Channel:
    """Messages between rank 0 and each other rank, of torch.distributed's default group. One thread."""

    def __init__(self, rescuer: Rescuer | None = None) -> None:
        """``rescuer`` keeps a learner's rows, should the messages end."""
        self.rescuer = rescuer or Rescuer()
        self.ranks, self.rank = dist.get_world_size(), dist.get_rank()
        self._going: list[tuple[dist.Work | None, torch.Tensor]] = []  # messages and their memory

    # --- rank 0 -------------------------------------------------------------------------------------------------------

    def tell(self, order: Order) -> None:
        """One order for all other ranks."""
        self.tell_each([order] * (self.ranks - 1))

    def tell_each(self, orders: Sequence[Order]) -> None:
        """An order for each of the other ranks; returns before they have it."""
        self.flush()
        encoded: dict[int, bytearray] = {}
        for rank, order in enumerate(orders, start=1):
            if id(order) not in encoded:
                encoded[id(order)] = bytearray(msgspec.msgpack.encode(order))
            self._send(encoded[id(order)], rank)

    def answers(self) -> list[Answer]:
        """The answers of all other ranks to the newest order."""
        return [msgspec.msgpack.decode(self._receive(rank), type=Answer) for rank in range(1, self.ranks)]

    # --- the others ---------------------------------------------------------------------------------------------------

    def order(self) -> Order:
        """The next order; waits for it."""
        data = self._receive(0)
        try:
            return _ORDERS.decode(data)
        except msgspec.DecodeError as error:
            raise CorruptError(f"rank {self.rank} cannot read an order of rank 0: {error}") from error

    def answer(self, answer: Answer) -> None:
        """Answer the newest order."""
        self._send(bytearray(msgspec.msgpack.encode(answer)), 0)
        self.flush()

    def flush(self) -> None:
        """Wait until what was said is received."""
        for work, _ in self._going:
            if work is not None:
                work.wait()
        self._going = []

    def _send(self, data: bytearray, rank: int) -> None:
        for tensor in (torch.tensor([len(data)]), torch.frombuffer(data, dtype=torch.uint8)):
            self._going.append((dist.isend(tensor, rank), tensor))

    def _receive(self, rank: int) -> bytes:
        size = torch.zeros(1, dtype=torch.int64)
        dist.recv(size, rank)
        data = torch.empty(int(size), dtype=torch.uint8)
        dist.recv(data, rank)
        return data.numpy().tobytes()
