"""Arrow columns to what is packed of a feature, a record batch at a time and without a Python object for each value.

`packed` gives exactly what `FeatureSchema.pack` would pack of the row's value. Where that is not plain, because the
value is refused or is of a type that a feature seldom comes in, the row is marked as not *fit*, and the caller takes it
by itself, the way that finds a reason.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from monolith.errors import EventError
from monolith.streaming.sample_block import Pieces
from monolith.tables.batch import Flags, Ints, spans
from monolith.tables.columns import NO_NUMBER, Dense, IdBag, OneId, PackedColumn, transformed
from monolith.tables.packing import PackedBags, PackedIds, PackedNumbers, PackedPiece

_LARGEST_INT = 2.0**63  # as a float; below it, and down to its negative, whole floats are ids


def packed(column: PackedColumn, values: pa.Array) -> tuple[PackedPiece, Flags]:
    """What is packed of ``values`` (n), the feature's column, and which rows are fit, (n,); others are packed as 0."""
    if isinstance(column, OneId):
        return _ids(column, values)
    return _numbers(column, values) if isinstance(column, Dense) else _bags(column, values)


def labels(values: pa.Array) -> tuple[npt.NDArray[np.float64], Flags, Flags]:
    """Numbers and booleans (n) as float64, which rows have one, and which have null; all but the former have 0."""
    values = _plain(values)
    if pa.types.is_boolean(values.type):
        values = values.cast(pa.int8())
    if not (pa.types.is_integer(values.type) or _is_float(values.type)):
        return np.zeros(len(values)), np.zeros(len(values), np.bool_), np.zeros(len(values), np.bool_)
    numbers, null = _floats(values), _nulls(values)
    return numbers, ~null & ~np.isnan(numbers), null


def _asked(column: PackedColumn, value: object) -> tuple[Any, bool]:
    """What is packed of one value, and whether anything is."""
    try:
        return column.pack(value), True
    except EventError:
        return None, False


# --- one id a sample -------------------------------------------------------------------------------------------------


def _ids(column: OneId, values: pa.Array) -> tuple[PackedIds, Flags]:
    if column.config.type == "int" and pa.types.is_int64(values.type) and not values.null_count:
        return PackedIds(values.to_numpy(), _all(len(values))), _all(len(values))
    null = _nulls(values)
    ids, fit = _given_ids(column, values)
    present = np.ones(len(values), np.bool_)
    rules: list[tuple[Flags, object]] = [(null, None)]
    if pa.types.is_floating(values.type):
        rules.append((np.isnan(_floats(values)) & ~null, float("nan")))
    for rows, value in rules:
        if rows.any():
            one, takes = _asked(column, value)
            ids[rows], present[rows], fit[rows] = one or 0, one is not None, takes
    ids[~fit] = 0
    return PackedIds(ids, present), fit


def _given_ids(column: OneId, values: pa.Array) -> tuple[Ints, Flags]:
    """Ids of those values that are not missing."""
    kind = column.config.type
    if kind == "string" and _is_text(values.type):
        return _ids_of_distinct(column.id, values)
    values = _plain(values)
    if kind == "bool" and pa.types.is_boolean(values.type):
        return values.cast(pa.int64()).fill_null(0).to_numpy().copy(), np.ones(len(values), np.bool_)
    if kind == "int" and (pa.types.is_integer(values.type) or _is_float(values.type)):
        return _integers(values)
    if kind == "float" and (pa.types.is_integer(values.type) or _is_float(values.type)):
        numbers = _floats(values)
        steps = np.searchsorted(column.config.boundaries, transformed(numbers, column.config.transforms), side="right")
        return steps.astype(np.int64), np.isfinite(numbers)
    return np.zeros(len(values), np.int64), np.zeros(len(values), np.bool_)


def _integers(values: pa.Array) -> tuple[Ints, Flags]:
    """Integers as they are, and whole floats: integers beside nulls are often stored as floats."""
    if pa.types.is_integer(values.type):
        numbers = values.fill_null(0).to_numpy()
        fit = numbers <= np.iinfo(np.int64).max if numbers.dtype == np.uint64 else np.ones(len(values), np.bool_)
        return numbers.astype(np.int64), fit
    floats = _floats(values)
    fit = (np.floor(floats) == floats) & (floats >= -_LARGEST_INT) & (floats < _LARGEST_INT)
    return np.where(fit, floats, 0.0).astype(np.int64), fit


def _ids_of_distinct(id_of: Callable[[Any], int], values: pa.Array) -> tuple[Ints, Flags]:
    """Ids of strings, each distinct one hashed once; 0 for a null."""
    if pa.types.is_dictionary(values.type) and len(values.dictionary) > len(values):
        values = _plain(values)  # most of the dictionary belongs to other rows
    encoded = values if pa.types.is_dictionary(values.type) else values.dictionary_encode()
    ids = np.array([0 if text is None else id_of(text) for text in encoded.dictionary.to_pylist()] + [0], np.int64)
    places = encoded.indices.cast(pa.int64()).fill_null(len(ids) - 1).to_numpy()
    return ids[places], np.ones(len(values), np.bool_)


# --- keys ------------------------------------------------------------------------------------------------------------


def texts(values: pa.Array) -> Pieces:
    """``str`` of each value, as UTF-8."""
    values = _plain(values)
    if pa.types.is_integer(values.type):
        values = values.cast(pa.large_string())
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        values = values.cast(pa.large_string()).fill_null(str(None))
    else:
        values = pa.array([str(value) for value in values.to_pylist()], pa.large_string())
    _, ends, data = values.buffers()
    places = np.frombuffer(ends, np.int64)[values.offset : values.offset + len(values) + 1]
    whole = np.zeros(0, np.uint8) if data is None else np.frombuffer(data, np.uint8)
    return Pieces(whole[places[0] : places[-1]], np.diff(places))


def interleaved(first: Pieces, second: Pieces) -> Pieces:
    """One string of ``first``, then one of ``second``, in turn."""
    lengths = np.stack([first.lengths, second.lengths], axis=1)
    starts = (np.cumsum(lengths.ravel()) - lengths.ravel()).reshape(lengths.shape)
    data = np.empty(int(lengths.sum()), np.uint8)
    for i, part in enumerate((first, second)):
        data[spans(starts[:, i], part.lengths)] = part.data
    return Pieces(data, lengths.ravel())


# --- numbers ---------------------------------------------------------------------------------------------------------


def _numbers(column: Dense, values: pa.Array) -> tuple[PackedNumbers, Flags]:
    numbers, fit = _given_numbers(column, _plain(values))
    null = _nulls(values)
    if null.any():
        given, takes = _asked(column, None)
        numbers[null], fit[null] = given if takes else 0.0, takes
    numbers[~fit] = 0.0
    return PackedNumbers(numbers), fit


def _given_numbers(column: Dense, values: pa.Array) -> tuple[npt.NDArray[np.float64], Flags]:
    """The numbers (n, width) of those rows that are not missing."""
    count, width, kind = len(values), column.config.width, values.type
    if column.config.type == "bool" and pa.types.is_boolean(kind):
        return values.cast(pa.float64(), safe=False).fill_null(0.0).to_numpy().reshape(-1, 1).copy(), _all(count)
    if column.config.type == "float" and width == 1 and (pa.types.is_integer(kind) or _is_float(kind)):
        numbers = _floats(values) + 0.0  # a whole float is an integer on the wire, which has no -0
        return numbers.reshape(-1, 1), ~np.isinf(numbers)
    if column.config.type == "float" and width > 1 and _is_list(kind):
        return _rows_of_numbers(values, width)
    return np.zeros((count, width)), ~_all(count)


def _rows_of_numbers(values: pa.Array, width: int) -> tuple[npt.NDArray[np.float64], Flags]:
    lengths, inner = _lengths(values), _plain(values.flatten())
    numbers, fit = np.zeros((len(values), width)), lengths == width
    if not (pa.types.is_integer(inner.type) or _is_float(inner.type)):
        return numbers, np.zeros(len(values), np.bool_)
    flat = np.where(_nulls(inner), NO_NUMBER, _floats(inner))
    starts = (np.cumsum(lengths) - lengths)[fit]
    numbers[fit] = flat[spans(starts, np.full(len(starts), width))].reshape(-1, width)
    return numbers, fit & ~np.isinf(numbers).any(axis=1)


# --- bags ------------------------------------------------------------------------------------------------------------


def _bags(column: IdBag, values: pa.Array) -> tuple[PackedBags, Flags]:
    null, count = _nulls(values), len(values)
    if not _is_list(values.type):
        ids, lengths, fit = np.zeros(0, np.int64), np.zeros(count, np.int64), null.copy()
    else:
        lengths, inner = _lengths(values), values.flatten()
        ids, good = _elements(column, inner)
        bad_rows = np.repeat(np.arange(count), lengths)[~good]
        fit = _all(count)
        fit[bad_rows] = False
        ids, lengths = ids[np.repeat(fit, lengths)], np.where(fit, lengths, 0)
    if null.any():
        given, takes = _asked(column, None)
        own_ids, weights = given if takes else ([], [])
        fit[null] = takes and not weights
        if takes and not weights and own_ids:
            ids, lengths = _with_rows_of(own_ids, null, ids, lengths)
    return PackedBags(ids, lengths), fit


def _elements(column: IdBag, inner: pa.Array) -> tuple[Ints, Flags]:
    """Ids of the elements of lists, and which of them are fit."""
    kind, good = column.config.type, ~_nulls(inner)
    if kind == "string" and _is_text(inner.type):
        ids, takes = _ids_of_distinct(column.id, inner)
    elif kind == "int" and pa.types.is_integer(_plain(inner).type):
        ids, takes = _integers(_plain(inner))
    else:
        return np.zeros(len(inner), np.int64), np.zeros(len(inner), np.bool_)
    return ids, takes & good


def _with_rows_of(own_ids: list[int], rows: Flags, ids: Ints, lengths: Ints) -> tuple[Ints, Ints]:
    """The bags with ``own_ids`` in ``rows``, which have none."""
    longer = np.where(rows, len(own_ids), lengths)
    whole = np.empty(int(longer.sum()), np.int64)
    own = np.repeat(rows, longer)
    whole[own] = np.tile(own_ids, int(rows.sum()))
    whole[~own] = ids
    return whole, longer


# --- Arrow -----------------------------------------------------------------------------------------------------------


def _all(count: int) -> Flags:
    return np.ones(count, np.bool_)


def _nulls(values: pa.Array) -> Flags:
    nulls: Flags = _plain(values).is_null().to_numpy(zero_copy_only=False)
    return nulls


def _floats(values: pa.Array) -> npt.NDArray[np.float64]:
    """Numbers as float64; 0 for a null."""
    floats: npt.NDArray[np.float64] = values.fill_null(0).to_numpy(zero_copy_only=False).astype(np.float64)
    return floats


def _lengths(values: pa.Array) -> Ints:
    """Elements of each list; 0 for a null."""
    lengths: Ints = values.value_lengths().fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    return lengths


def _plain(values: pa.Array) -> pa.Array:
    """The same values, not by way of a dictionary."""
    return values.dictionary_decode() if pa.types.is_dictionary(values.type) else values


def _is_float(kind: pa.DataType) -> bool:
    return bool(pa.types.is_float32(kind) or pa.types.is_float64(kind))


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _is_text(kind: pa.DataType) -> bool:
    inner = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(inner) or pa.types.is_large_string(inner))
