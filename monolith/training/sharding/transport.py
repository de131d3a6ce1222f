"""Messages and vectors between the ranks of a process group, by torch.distributed's all-to-all.

Every call is collective: all ranks of the group make it, in the same order. Arrays are NumPy's; gloo moves them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist

from monolith.errors import ConfigError

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Wire = Literal["float32", "bfloat16", "float16"]

_TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Transport:
    """Between the ranks of ``group`` (None: all). ``wire`` is what vectors are rounded to on their way, at every W.

    Raises ConfigError for an unknown ``wire``, or before torch.distributed was initialised.
    """

    def __init__(self, group: dist.ProcessGroup | None = None, wire: Wire = "float32") -> None:
        if not dist.is_initialized():
            raise ConfigError(
                "torch.distributed is not initialised: run under torchrun, and call "
                "torch.distributed.init_process_group('gloo') before tables are divided"
            )
        self.group: dist.ProcessGroup = group if group is not None else dist.group.WORLD  # type: ignore[assignment]
        self._begin(dist.get_rank(group), dist.get_world_size(group), wire)

    def _begin(self, rank: int, ranks: int, wire: Wire) -> None:
        if wire not in _TYPES:
            raise ConfigError(f"wire is {wire!r}; allowed: {', '.join(_TYPES)}")
        self.rank, self.ranks = rank, ranks
        self.type = _TYPES[wire]
        self._kept = torch.empty(0, dtype=torch.float32)
        self.id_bytes = self.vector_bytes = 0  # sent to other ranks, so far

    @property
    def bytes_sent(self) -> int:
        """To other ranks so far: questions, rows and gradients; not their sizes, nor what ``gather`` sends."""
        return self.id_bytes + self.vector_bytes

    def send(self, messages: Sequence[Ints]) -> Messages:
        """Send ``messages[r]`` (n,) to rank r; n may differ. Other work may be done before ``wait``."""
        return Messages(self, messages)

    def room(self, sent: Ints, received: Ints) -> Room:
        """Room for the floats of one exchange: (ranks, blocks) of how many go to and come from each rank."""
        wanted = int(sent.sum() + received.sum() - received[self.rank].sum())
        if len(self._kept) < wanted:
            self._kept = torch.empty(wanted, dtype=torch.float32)
        return Room(self, self._kept, sent, received)

    def all_to_all(
        self, back: torch.Tensor, out: torch.Tensor, sizes_back: list[int], sizes: list[int], *, beside: bool = False
    ) -> dist.Work | None:
        """``sizes[r]`` of ``out`` go to rank r, and ``sizes_back[r]`` come from it; ``beside``: once one waits."""
        return dist.all_to_all_single(back, out, sizes_back, sizes, group=self.group, async_op=beside)  # type: ignore[no-any-return]

    def gather(self, numbers: Ints) -> Ints:
        """(n,) of every rank, as (ranks, n): n is the same on all."""
        if self.ranks == 1:
            return numbers[None]
        out = torch.empty((self.ranks, len(numbers)), dtype=torch.int64)
        dist.all_gather(list(out), torch.from_numpy(numbers), group=self.group)
        return out.numpy()

    def objects(self, mine: object) -> list[object]:
        """An object of every rank; for what is said once."""
        if self.ranks == 1:
            return [mine]
        everyones: list[object] = [None] * self.ranks
        dist.all_gather_object(everyones, mine, group=self.group)
        return everyones


class Room:
    """Memory for vectors on their way to all ranks, and from all, in blocks: for each rank, one a table or part.

    Block k to rank r begins at float ``to_ranks[k, r]`` of ``flat``, that from rank r at ``from_ranks[k, r]``. What a
    rank has for itself is not moved: its blocks lie where they are filled. The memory is the transport's, and serves
    its next exchange: the system would clear fresh memory page by page.
    """

    def __init__(self, transport: Transport, kept: torch.Tensor, sent: Ints, received: Ints) -> None:
        self._transport = transport
        self._sizes, self._sizes_back = sent.sum(axis=1), received.sum(axis=1)
        own = transport.rank
        self._own = int(self._sizes[own])
        self._sizes[own] = self._sizes_back[own] = 0
        self._ends = self._own, self._own + int(self._sizes.sum())  # of what is kept here, and of what is sent
        self._memory = kept
        self.flat: Floats = kept.numpy()
        self.to_ranks = _begins(sent, self._sizes, self._own, own)
        self.from_ranks = _begins(received, self._sizes_back, self._ends[1], own)

    def exchange(self) -> None:
        """Send the blocks that were filled; those from other ranks are there then. Collective."""
        transport, (first, last) = self._transport, self._ends
        if transport.type != torch.float32:
            self._memory[:first].copy_(self._memory[:first].to(transport.type))
        if transport.ranks == 1:
            return
        out = self._memory[first:last].to(transport.type)
        end = last + int(self._sizes_back.sum())
        whole = self._memory[last:end]
        back = whole if transport.type == torch.float32 else torch.empty(end - last, dtype=transport.type)
        transport.all_to_all(back, out, self._sizes_back.tolist(), self._sizes.tolist())
        transport.vector_bytes += (last - first) * out.itemsize
        if back is not whole:
            whole.copy_(back)


def _begins(blocks: Ints, sizes: Ints, begin: int, own: int) -> Ints:
    """Where each of (ranks, n) blocks begins, (n, ranks): those of ``own`` at 0, others rank after rank."""
    of_rank = begin + sizes.cumsum() - sizes
    of_rank[own] = 0
    inside = blocks.cumsum(axis=1) - blocks
    return np.ascontiguousarray((of_rank[:, None] + inside).T)


class Messages:
    """Messages on their way to all ranks, and from all."""

    def __init__(self, transport: Transport, messages: Sequence[Ints]) -> None:
        self._transport = transport
        self._given = list(messages)
        self._sizes = [len(message) for message in messages]
        self._sizes_back = torch.empty(transport.ranks, dtype=torch.int64)
        self._known: dist.Work | None = None
        self._arrived: dist.Work | None = None
        if transport.ranks > 1:
            sizes = torch.tensor(self._sizes, dtype=torch.int64)
            one = [1] * transport.ranks
            self._known = transport.all_to_all(self._sizes_back, sizes, one, one, beside=True)

    def begin(self) -> None:
        """Send the messages themselves, of which so far the sizes are known. Collective; ``wait`` does it too."""
        if self._known is None or self._arrived is not None:
            return
        self._known.wait()
        out = torch.from_numpy(np.concatenate(self._given))
        back = self._sizes_back.tolist()
        self._back = torch.empty(sum(back), dtype=torch.int64)
        self._arrived = self._transport.all_to_all(self._back, out, back, self._sizes, beside=True)
        self._transport.id_bytes += 8 * (len(out) - self._sizes[self._transport.rank])

    def wait(self) -> list[Ints]:
        """What each rank sent to this one."""
        if self._known is None:
            return self._given
        self.begin()
        assert self._arrived is not None
        self._arrived.wait()
        return np.split(self._back.numpy(), np.cumsum(self._sizes_back.numpy())[:-1])
