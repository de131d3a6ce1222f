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
        if wire not in _TYPES:
            raise ConfigError(f"wire is {wire!r}; allowed: {', '.join(_TYPES)}")
        if not dist.is_initialized():
            raise ConfigError(
                "torch.distributed is not initialised: run under torchrun, and call "
                "torch.distributed.init_process_group('gloo') before tables are divided"
            )
        self.group: dist.ProcessGroup = group if group is not None else dist.group.WORLD  # type: ignore[assignment]
        self.ranks: int = dist.get_world_size(group)
        self.rank: int = dist.get_rank(group)
        self._type = _TYPES[wire]
        self.bytes_sent = 0  # to other ranks, so far

    def send(self, messages: Sequence[Ints]) -> Messages:
        """Send ``messages[r]`` (n,) to rank r; n may differ. Other work may be done before ``wait``."""
        return Messages(self, messages)

    def vectors(self, flat: Floats, sizes: Sequence[int], sizes_back: Sequence[int]) -> Floats:
        """The floats that each rank has for this one, rank after rank; ``flat`` has ``sizes[r]`` for rank r, so too.

        ``sizes_back`` is how many come from each rank, which both sides know.
        """
        out = torch.from_numpy(flat).to(self._type)
        if self.ranks == 1:
            return out.to(torch.float32).numpy()
        back = torch.empty(sum(sizes_back), dtype=self._type)
        dist.all_to_all_single(back, out, list(sizes_back), list(sizes), group=self.group)
        self.bytes_sent += (len(flat) - sizes[self.rank]) * out.itemsize
        return back.to(torch.float32).numpy()

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
            self._known = dist.all_to_all_single(self._sizes_back, sizes, group=transport.group, async_op=True)

    def begin(self) -> None:
        """Send the messages themselves, of which so far the sizes are known. Collective; ``wait`` does it too."""
        if self._known is None or self._arrived is not None:
            return
        self._known.wait()
        out = torch.from_numpy(np.concatenate(self._given))
        back = self._sizes_back.tolist()
        self._back = torch.empty(sum(back), dtype=torch.int64)
        self._arrived = dist.all_to_all_single(
            self._back, out, back, self._sizes, group=self._transport.group, async_op=True
        )
        self._transport.bytes_sent += 8 * (len(out) - self._sizes[self._transport.rank])

    def wait(self) -> list[Ints]:
        """What each rank sent to this one."""
        if self._known is None:
            return self._given
        self.begin()
        assert self._arrived is not None
        self._arrived.wait()
        return np.split(self._back.numpy(), np.cumsum(self._sizes_back.numpy())[:-1])
