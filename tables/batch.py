"""``Batch``: samples as columns, the one unit between joiner, trainer, benchmarks, replicas and other processes.

NumPy arrays, read only by agreement and shared wherever possible: a slice of a batch shares its memory, and torch takes
the columns without a copy. `tables.batch_bytes` writes a batch to bytes and reads it back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from monolith.errors import InputError
from monolith.tables.split import Owners, Split, split_ids

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Flags = npt.NDArray[np.bool_]

NO_GROUP = -(2**63)  # the group key of a sample that belongs to no group


@dataclass(frozen=True, slots=True, eq=False)
class Bag:
    """The ids of one feature in a batch: sample ``i`` has the next ``lengths[i]`` of ``ids``.

    Raises InputError if the lengths are negative or do not add up to the ids, or the weights are not as many.
    """

    ids: Ints  # (total,)
    lengths: npt.NDArray[np.int32]  # (batch,)
    weights: Floats | None = None  # (total,); None: every id weighs 1
    one_each: bool = field(init=False)  # every sample has exactly one id
    _offsets: Ints | None = field(init=False, repr=False)  # once somebody asked for them

    def __post_init__(self) -> None:
        one_each = len(self.ids) == len(self.lengths) and bool((self.lengths == 1).all())
        object.__setattr__(self, "one_each", one_each)
        object.__setattr__(self, "_offsets", None)
        if not one_each and (self.lengths.min(initial=0) < 0 or int(self.lengths.sum()) != len(self.ids)):
            raise InputError(
                f"a bag has {len(self.ids)} ids, its lengths add up to {int(self.lengths.sum())} (smallest "
                f"{int(self.lengths.min())}): lengths must be >= 0 and add up to the ids"
            )
        if self.weights is not None and len(self.weights) != len(self.ids):
            raise InputError(f"a bag has {len(self.ids)} ids and {len(self.weights)} weights: give one for each id")

    def __len__(self) -> int:
        """The number of samples."""
        return len(self.lengths)

    def offsets(self) -> Ints:
        """Where each sample's ids begin in ``ids``, and where the last ones end: (batch + 1,)."""
        if self._offsets is None:
            offsets = np.zeros(len(self.lengths) + 1, np.int64)
            np.cumsum(self.lengths, out=offsets[1:])
            object.__setattr__(self, "_offsets", offsets)
            return offsets
        return self._offsets

    def rows(self, start: int, stop: int) -> Bag:
        """The bag of samples ``start`` to ``stop``; shares memory."""
        if self.one_each:
            weights = None if self.weights is None else self.weights[start:stop]
            return _bag(self.ids[start:stop], self.lengths[start:stop], weights, True)
        first, last = self.offsets()[[start, stop]].tolist()
        lengths = self.lengths[start:stop]
        one_each = last - first == stop - start and bool((lengths == 1).all())
        weights = None if self.weights is None else self.weights[first:last]
        return _bag(self.ids[first:last], lengths, weights, one_each)

    def take(self, order: Ints) -> Bag:
        """The bag of the samples that ``order`` names, in that order; a copy."""
        lengths = self.lengths[order]
        places = order if self.one_each else spans(self.offsets()[order], lengths)
        return Bag(self.ids[places], lengths, None if self.weights is None else self.weights[places])

    def where(self, mask: Flags) -> Bag:
        """The bag with only those ids whose ``mask`` (total,) is true; every sample stays, maybe with fewer ids."""
        if mask.shape != self.ids.shape or mask.dtype != np.bool_:
            raise InputError(
                f"a mask is {mask.dtype} of shape {mask.shape}, the bag has {len(self.ids)} ids: one bool each"
            )
        kept = np.zeros(len(mask) + 1, np.int64)
        np.cumsum(mask, out=kept[1:])
        lengths = np.diff(kept[self.offsets()]).astype(np.int32)
        return Bag(self.ids[mask], lengths, None if self.weights is None else self.weights[mask])

    def split(self, owners: Owners, *, salted_by: str | None = None) -> BagSplit:
        """The bag of each owner: every sample, with those of its ids whose rows the owner has, in their order; copies.

        ``salted_by`` is the feature's name where its ids are salted by it, so that buckets are those of the rows.
        """
        split = split_ids(self.ids, owners, salted_by=salted_by)
        samples = None if self.one_each else np.repeat(np.arange(len(self), dtype=np.int64), self.lengths)
        return BagSplit([self._part(positions, samples) for positions in split.parts()], split)

    def _part(self, positions: Ints, samples: Ints | None) -> Bag:
        lengths = np.bincount(positions if samples is None else samples[positions], minlength=len(self))
        weights = None if self.weights is None else self.weights[positions]
        return Bag(self.ids[positions], lengths.astype(np.int32), weights)


@dataclass(frozen=True, slots=True, eq=False)
class BagSplit:
    """A bag by owners of buckets, and the way back: ``split.places()`` says for each id which part has it, and where.

    So ``concatenate(what each part's ids gave)[split.back]`` is in the order of the bag's ids.
    """

    parts: list[Bag]  # of each owner
    split: Split


class Home(NamedTuple):
    """Where the rows of a feature's ids are."""

    owners: Owners
    salted: bool = False  # the feature shares its table with others, but no rows


@dataclass(frozen=True, slots=True, eq=False)
class BatchSplit:
    """A batch by owners of buckets: each part has all samples, with everything but the ids shared, not copied."""

    parts: list[Batch]  # of each owner
    splits: Mapping[str, Split]  # of each feature's ids: the way back, as in `BagSplit`


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """``n`` samples. Mappings are in the order of the job's features; all arrays have ``n`` rows but those of bags.

    Raises InputError, naming the column, where lengths, shapes or dtypes differ from what is declared here.
    """

    bags: Mapping[str, Bag]  # feature -> ids
    dense: Mapping[str, Floats]  # feature -> (n, width)
    labels: Floats  # (n, tasks)
    rates: Floats  # (n,): share of the sample's slice that was kept by negative sampling, in (0, 1]
    event_time_ms: Ints  # (n,)
    ingestion_time_ms: Ints  # (n,): of the record that completed the sample
    groups: Ints  # (n,): key of the group within which samples are ranked; NO_GROUP: none
    late: Flags  # (n,): a positive whose negative was already given out
    label_weights: Floats | None = None  # (n, tasks); None: every label weighs 1

    def __post_init__(self) -> None:
        n = len(self.event_time_ms)
        for name, dtype, tail in _FIXED:
            _check(name, getattr(self, name), n, dtype, tail)
        if self.label_weights is not None and self.label_weights.shape != self.labels.shape:
            raise InputError(f"label_weights are of shape {self.label_weights.shape}, labels of {self.labels.shape}")
        for name, bag in self.bags.items():
            if len(bag) != n:
                raise InputError(f"feature {name!r} has {len(bag)} samples, the batch has {n}")
        for name, column in self.dense.items():
            _check(f"dense feature {name!r}", column, n, np.float32, 1)

    def __len__(self) -> int:
        return len(self.event_time_ms)

    def __getitem__(self, rows: slice) -> Batch:
        """Consecutive samples; shares memory."""
        start, stop, step = rows.indices(len(self))
        if step != 1:
            raise InputError(f"a batch is sliced by consecutive rows, not in steps of {step}")
        stop = max(start, stop)
        return _batch(
            {name: bag.rows(start, stop) for name, bag in self.bags.items()},
            {name: column[start:stop] for name, column in self.dense.items()},
            *[getattr(self, name)[start:stop] for name, *_ in _FIXED],
            None if self.label_weights is None else self.label_weights[start:stop],
        )

    def take(self, order: Ints) -> Batch:
        """The samples ``order`` names, in that order; a copy."""
        fixed = {name: getattr(self, name)[order] for name, *_ in _FIXED}
        return Batch(
            bags={name: bag.take(order) for name, bag in self.bags.items()},
            dense={name: column[order] for name, column in self.dense.items()},
            label_weights=None if self.label_weights is None else self.label_weights[order],
            **fixed,
        )

    def pieces(self, size: int) -> Iterator[Batch]:
        """The samples in order, ``size`` at a time; the last piece may have fewer."""
        for start in range(0, len(self), size):
            yield self[start : start + size]

    def where(self, masks: Mapping[str, Flags]) -> Batch:
        """The same samples with only those ids whose mask is true; features without a mask keep all of theirs."""
        bags = {name: bag.where(masks[name]) if name in masks else bag for name, bag in self.bags.items()}
        return Batch(bags=bags, **{f.name: getattr(self, f.name) for f in fields(self) if f.name != "bags"})

    def split(self, homes: Mapping[str, Home]) -> BatchSplit:
        """For each owner the same samples with only those ids whose rows it has.

        ``homes`` has every feature with ids; a feature that tables of several divisions read is split for each of them
        by `Bag.split`. Raises InputError, naming it, for a feature without a home and for homes of several numbers of
        owners.
        """
        if missing := [name for name in self.bags if name not in homes]:
            raise InputError(f"no home for the ids of {', '.join(missing)}: say who owns the buckets of every feature")
        counts = {home.owners.count: name for name, home in homes.items()}
        if len(counts) > 1:
            said = ", ".join(f"{name!r} has {count} owners" for count, name in counts.items())
            raise InputError(f"one batch is split among one number of owners; {said}")
        splits = {
            name: bag.split(homes[name].owners, salted_by=name if homes[name].salted else None)
            for name, bag in self.bags.items()
        }
        shared = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "bags"}
        parts = [
            Batch(bags={name: split.parts[owner] for name, split in splits.items()}, **shared)
            for owner in range(next(iter(counts), 0))
        ]
        return BatchSplit(parts, {name: split.split for name, split in splits.items()})


# Column, dtype, dimensions behind the rows.
_FIXED: tuple[tuple[str, type[np.generic], int], ...] = (
    ("labels", np.float32, 1),
    ("rates", np.float32, 0),
    ("event_time_ms", np.int64, 0),
    ("ingestion_time_ms", np.int64, 0),
    ("groups", np.int64, 0),
    ("late", np.bool_, 0),
)


def _bag(ids: Ints, lengths: npt.NDArray[np.int32], weights: Floats | None, one_each: bool) -> Bag:
    """A bag that is not checked, since it is cut from one that was."""
    bag = _new(Bag)
    _set(bag, "ids", ids)
    _set(bag, "lengths", lengths)
    _set(bag, "weights", weights)
    _set(bag, "one_each", one_each)
    _set(bag, "_offsets", None)
    return bag


def _batch(*columns: object) -> Batch:
    """A batch that is not checked, since it is cut from one that was; the columns in the order of the fields."""
    batch = _new(Batch)
    for name, column in zip(_COLUMNS, columns, strict=True):
        _set(batch, name, column)
    return batch


_new, _set = object.__new__, object.__setattr__  # of frozen classes
_COLUMNS = [f.name for f in fields(Batch)]


def spans(starts: Ints, lengths: npt.NDArray[np.integer]) -> Ints:
    """``starts[i], starts[i] + 1, ...``, ``lengths[i]`` of them, for each i in turn."""
    before = np.cumsum(lengths, dtype=np.int64) - lengths
    return np.arange(int(lengths.sum()), dtype=np.int64) + np.repeat(starts - before, lengths)


def concatenated(batches: Sequence[Batch]) -> Batch:
    """All samples, in order. Raises InputError for no batch, or for batches with other columns."""
    if not batches:
        raise InputError("no batch to concatenate: an empty batch needs columns, take a slice of none of another")
    if len(batches) == 1:
        return batches[0]
    first = batches[0]
    for other in batches[1:]:
        if list(other.bags) != list(first.bags) or list(other.dense) != list(first.dense):
            raise InputError(
                f"batches have other columns: {[*first.bags, *first.dense]} and {[*other.bags, *other.dense]}"
            )
    weights = [b.label_weights for b in batches]
    if any(w is not None for w in weights):
        weights = [np.ones_like(b.labels) if b.label_weights is None else b.label_weights for b in batches]
    fixed = {name: np.concatenate([getattr(b, name) for b in batches]) for name, *_ in _FIXED}
    return Batch(
        bags={name: _joined([b.bags[name] for b in batches]) for name in first.bags},
        dense={name: np.concatenate([b.dense[name] for b in batches]) for name in first.dense},
        label_weights=None if weights[0] is None else np.concatenate([w for w in weights if w is not None]),
        **fixed,
    )


def _joined(bags: Sequence[Bag]) -> Bag:
    weights: Floats | None = None
    if any(bag.weights is not None for bag in bags):
        weights = np.concatenate(
            [np.ones(len(bag.ids), np.float32) if bag.weights is None else bag.weights for bag in bags]
        )
    return Bag(np.concatenate([bag.ids for bag in bags]), np.concatenate([bag.lengths for bag in bags]), weights)


def _check(name: str, column: npt.NDArray[np.generic], rows: int, dtype: type[np.generic], tail: int) -> None:
    if column.ndim != 1 + tail or len(column) != rows or column.dtype != dtype:
        shape = f"({rows},{' width' if tail else ''})"
        raise InputError(f"{name}: {column.dtype} of shape {column.shape}, must be {dtype.__name__} of shape {shape}")
