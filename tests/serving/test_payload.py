"""What packing does to a row: FBGEMM's bits in 8 bits, the nearest value in 16, no plausible number for a NaN."""

from __future__ import annotations

import platform
from typing import get_args

import fbgemm_gpu  # noqa: F401  (registers torch.ops.fbgemm)
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from monolith.config.job import Payload
from monolith.errors import VersionError
from monolith.serving.payload import PAYLOADS, RowFormat

DIMS = range(1, 258)
LIMIT = np.finfo(np.float32).max
RNG = np.random.default_rng(20)

KINDS = {
    "random": lambda n, dim: RNG.standard_normal((n, dim)),
    "constant": lambda n, dim: np.repeat(RNG.standard_normal((n, 1)), dim, axis=1),
    "huge": lambda n, dim: np.clip(RNG.standard_normal((n, dim)) * 1e38, -LIMIT, LIMIT),
    "tiny": lambda n, dim: RNG.standard_normal((n, dim)) * 1e-9,
    "subnormal": lambda n, dim: RNG.standard_normal((n, dim)) * 1e-40,
    "zero": lambda n, dim: np.zeros((n, dim)),
    "minus zero": lambda n, dim: -np.zeros((n, dim)),
    "negative": lambda n, dim: -np.abs(RNG.standard_normal((n, dim))),
    "far from zero": lambda n, dim: RNG.standard_normal((n, dim)) + 1e6,
    "both zeros": lambda n, dim: RNG.choice([0.0, -0.0], (n, dim)),
    "both zeros and more": lambda n, dim: RNG.choice([0.0, -0.0, 0.5], (n, dim)),
}


def by_fbgemm(values):
    return torch.ops.fbgemm.FloatToFused8BitRowwiseQuantized(torch.from_numpy(values)).numpy()


@pytest.mark.parametrize("kind", KINDS)
def test_int8_rowwise_is_fbgemm_s_format_bit_for_bit(kind):
    if kind.startswith("both") and platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("which of two zeros FBGEMM takes for the bias is that of its AVX2 code")
    for dim in DIMS:
        values = KINDS[kind](40, dim).astype(np.float32)
        packed = RowFormat("int8_rowwise", dim).pack(values)
        assert packed.tobytes() == by_fbgemm(values).tobytes(), dim


def test_int8_rowwise_is_read_as_fbgemm_reads_it():
    values = KINDS["random"](500, 33).astype(np.float32)
    form = RowFormat("int8_rowwise", 33)
    theirs = torch.ops.fbgemm.Fused8BitRowwiseQuantizedToFloat(torch.from_numpy(form.pack(values))).numpy()
    np.testing.assert_allclose(form.served(values), theirs, rtol=1e-6, atol=1e-6)  # it may fuse the two roundings


FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


@settings(deadline=None)
@given(hnp.arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 20)), elements=FLOATS))
def test_an_int8_value_is_off_by_half_a_step_at_most(values):
    exact = values.astype(np.float64)
    span = exact.max(axis=1, keepdims=True) - exact.min(axis=1, keepdims=True)
    served = RowFormat("int8_rowwise", values.shape[1]).served(values)
    fits = (span <= LIMIT).ravel()
    largest = np.abs(exact).max(axis=1, keepdims=True)
    bound = span / 510 + 1e-8 + 4 * np.finfo(np.float32).eps * largest
    assert (np.abs(served - exact) <= bound)[fits].all()
    assert np.isnan(served[~fits]).all()


@pytest.mark.parametrize(("payload", "kind"), [("float16", torch.float16), ("bfloat16", torch.bfloat16)])
@settings(deadline=None)
@given(bits=hnp.arrays(np.uint32, st.tuples(st.integers(1, 4), st.integers(1, 9))))
def test_sixteen_bits_are_the_nearest_value_and_finite_stays_finite(payload, kind, bits):
    values = bits.view(np.float32)
    served = RowFormat(payload, values.shape[1]).served(values)
    nearest = torch.from_numpy(values).to(kind).float().numpy()
    finite = np.isfinite(values)
    inside = finite & np.isfinite(nearest)
    assert served[inside].tobytes() == nearest[inside].tobytes()
    largest = np.copysign(np.float32(torch.finfo(kind).max), values)
    assert (served == largest)[finite & ~np.isfinite(nearest)].all()
    assert (served == values)[np.isinf(values)].all()
    assert np.isnan(served[np.isnan(values)]).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("payload", PAYLOADS)
def test_a_row_with_no_number_in_it_never_reads_as_a_plausible_one(payload, bad):
    values = np.array([[1, bad, 2], [4, 5, 6], [bad, bad, bad]], np.float32)
    served = RowFormat(payload, 3).served(values)
    expected = np.where(np.isfinite(values).all(axis=1, keepdims=True), values, np.nan)
    if payload != "int8_rowwise":
        expected = values
    np.testing.assert_allclose(served, expected, atol=2 / 510 + 1e-6)


def test_float32_keeps_every_bit():
    bits = RNG.integers(0, 2**32, (50, 7), dtype=np.uint32)
    assert RowFormat("float32", 7).served(bits.view(np.float32)).tobytes() == bits.tobytes()


@pytest.mark.parametrize("payload", PAYLOADS)
def test_packing_is_a_function_of_the_row_alone(payload):
    form = RowFormat(payload, 33)
    values = RNG.integers(0, 2**32, (5_000, 33), dtype=np.uint32).view(np.float32)  # NaN and infinity among them
    values[::3] = RNG.choice([0.0, -0.0, 1.0], (len(values[::3]), 33))
    packed = form.pack(values)
    assert packed.shape == (5_000, form.width)
    assert packed[::7].tobytes() == b"".join(form.pack(values[at : at + 1]).tobytes() for at in range(0, 5_000, 7))
    assert form.pack(np.asfortranarray(values)).tobytes() == packed.tobytes()


@pytest.mark.parametrize("payload", PAYLOADS)
def test_zeros_pack_to_zeros_and_no_rows_to_no_rows(payload):
    form = RowFormat(payload, 5)
    assert not form.pack(np.zeros((2, 5), np.float32)).any()
    assert form.pack(np.zeros((0, 5), np.float32)).shape == (0, form.width)
    assert form.unpack(np.zeros((0, form.width), np.uint8)).shape == (0, 5)


def test_the_job_file_offers_every_payload():
    assert get_args(Payload) == PAYLOADS


def test_an_unknown_payload_is_refused_with_those_that_are_known():
    with pytest.raises(VersionError, match=r"payload 'int4', this build reads float32, .*int8_rowwise"):
        RowFormat("int4", 3)
