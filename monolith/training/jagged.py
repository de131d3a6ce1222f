"""Reading the ids of each feature out of torchrec's KeyedJaggedTensor, and the checks on bags before a step begins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from monolith.errors import InputError
from monolith.tables.batch import Bag

if TYPE_CHECKING:
    from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

EventTimes = int | npt.NDArray[np.int64] | torch.Tensor | None


def bags_of(jagged: KeyedJaggedTensor, features: Sequence[str]) -> dict[str, Bag]:
    """One bag for each of ``features``; the ids share memory with the tensor where it holds int64 on the CPU.

    Raises InputError if a feature is missing, if the keys have batches of different size, or if lengths and ids differ.
    """
    keys = jagged.keys()
    _require(features, keys)
    if jagged.variable_stride_per_key():
        raise InputError(
            f"the KeyedJaggedTensor has batches of different size by key ({jagged.stride_per_key()}), one size for "
            f"all keys is supported: expand it to the full batch first"
        )
    return bags_between(keys, jagged.values(), jagged.lengths(), jagged.weights_or_none())


def bags_between(
    keys: Sequence[str], values: torch.Tensor, lengths: torch.Tensor, weights: torch.Tensor | None
) -> dict[str, Bag]:
    """The bag of each of ``keys`` in the parts of a KeyedJaggedTensor: ids (total,), lengths (keys * batch,)."""
    if values.is_floating_point() or values.dtype == torch.bool:
        raise InputError(f"ids are {values.dtype}, they must be int64 (or another integer type): convert the values")
    ids = values.detach().cpu().numpy().astype(np.int64, copy=False)
    weight = None if weights is None else weights.detach().cpu().numpy().astype(np.float32, copy=False)
    length = lengths.cpu().numpy().astype(np.int32, copy=False).reshape(len(keys), -1)
    ends = np.cumsum(length.sum(axis=1, dtype=np.int64))
    if (length < 0).any() or (ends[-1] if len(ends) else 0) != len(ids):
        raise InputError(
            f"the lengths of the KeyedJaggedTensor add up to {int(ends[-1])} (smallest {int(length.min())}), and it "
            f"holds {len(ids)} ids: lengths must be >= 0 and add up to the ids"
        )
    begins = ends - length.sum(axis=1, dtype=np.int64)
    spans = [slice(int(begin), int(end)) for begin, end in zip(begins, ends, strict=True)]
    return {
        key: Bag(ids[span], row, None if weight is None else weight[span])
        for key, row, span in zip(keys, length, spans, strict=True)
    }


def batch_size(bags: Mapping[str, Bag], features: Sequence[str]) -> int:
    """The number of samples, the same in every bag. Raises InputError if a feature is missing or a bag is malformed."""
    batch = -1
    for feature in features:
        bag = bags.get(feature)
        if bag is None:
            _require(features, list(bags))
            raise InputError(f"feature {feature!r} has no bag: encode the batch with this collection's features")
        if batch < 0:
            batch = len(bag.lengths)
        if len(bag.lengths) != batch:
            raise InputError(
                f"feature {feature!r} has {len(bag.lengths)} samples and feature {features[0]!r} has {batch}: "
                f"every feature needs a length for every sample, 0 where it is missing"
            )
    return max(batch, 0)


def event_times(times: EventTimes, batch: int) -> int | npt.NDArray[np.int64] | None:
    """The times as the tables take them. Raises InputError for an array that is not (batch,) int64."""
    if times is None or isinstance(times, int):
        return times
    array = np.asarray(times.cpu() if isinstance(times, torch.Tensor) else times)
    if array.shape != (batch,) or array.dtype != np.int64:
        raise InputError(
            f"event_time_ms is {array.dtype} of shape {array.shape}: it must be one int, None, or int64 of shape "
            f"({batch},), a time for each sample of the batch"
        )
    return array


def _require(features: Sequence[str], given: Sequence[str]) -> None:
    if missing := [name for name in features if name not in given]:
        raise InputError(
            f"features {missing} are missing from the input, which has {list(given)}: add them, with length 0 "
            f"for every sample where a feature has no value"
        )
