"""Reading the ids of each feature out of torchrec's KeyedJaggedTensor, and the checks on bags before a step begins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from monolith.errors import InputError
from monolith.tables.features import Bag

if TYPE_CHECKING:
    from torchrec.sparse.jagged_tensor import KeyedJaggedTensor


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
    values = jagged.values()
    if values.is_floating_point() or values.dtype == torch.bool:
        raise InputError(f"ids are {values.dtype}, they must be int64 (or another integer type): convert the values")
    ids = values.detach().cpu().numpy().astype(np.int64, copy=False)
    weights = jagged.weights_or_none()
    weight = None if weights is None else weights.detach().cpu().numpy().astype(np.float32, copy=False)
    lengths = jagged.lengths().cpu().numpy().astype(np.int32, copy=False).reshape(len(keys), -1)
    ends = np.cumsum(lengths.sum(axis=1, dtype=np.int64))
    if (lengths < 0).any() or (ends[-1] if len(ends) else 0) != len(ids):
        raise InputError(
            f"the lengths of the KeyedJaggedTensor add up to {int(ends[-1])} (smallest {int(lengths.min())}), and it "
            f"holds {len(ids)} ids: lengths must be >= 0 and add up to the ids"
        )
    bags = {}
    for key, length, end in zip(keys, lengths, ends, strict=True):
        span = slice(int(end - length.sum(dtype=np.int64)), int(end))
        bags[key] = Bag(ids[span], length, None if weight is None else weight[span])
    return bags


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


def _require(features: Sequence[str], given: Sequence[str]) -> None:
    if missing := [name for name in features if name not in given]:
        raise InputError(
            f"features {missing} are missing from the input, which has {list(given)}: add them, with length 0 "
            f"for every sample where a feature has no value"
        )
