"""The binary HTTP bodies."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from monolith.errors import CorruptError, InputError
from monolith.serving.body import LookupAnswer, decode_request, decode_response, encode_request, encode_response


def test_a_request_is_what_the_format_says():
    data = encode_request("user", np.array([1, -2], np.int64))
    assert data == b"MLKQ" + struct.pack("<HHII", 1, 4, 2, 0) + b"user\0\0\0\0" + struct.pack("<qq", 1, -2)
    name, ids = decode_request(data)
    assert (name, ids.tolist()) == ("user", [1, -2])


def test_a_response_is_what_the_format_says():
    data = encode_response(LookupAnswer(3, 9, np.array([[1, 2], [3, 4]], np.float32)))
    assert data == b"MLKR" + struct.pack("<HHIIQQ", 1, 0, 2, 2, 3, 9) + struct.pack("<4f", 1, 2, 3, 4)
    answer = decode_response(data, "here")
    assert (answer.generation, answer.sequence, answer.values.tolist()) == (3, 9, [[1, 2], [3, 4]])


REQUEST = encode_request("user", np.array([1, 2], np.int64))
RESPONSE = encode_response(LookupAnswer(1, 1, np.ones((2, 2), np.float32)))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        REQUEST[:10],
        REQUEST[:-1],
        REQUEST + b"\0",
        b"XXXX" + REQUEST[4:],
        REQUEST[:4] + b"\2" + REQUEST[5:],
        REQUEST[:8] + b"\xff\xff\xff\xff" + REQUEST[12:],
        REQUEST[:6] + b"\xff\xff" + REQUEST[8:],
        REQUEST[:16] + b"\xff\xff\xff\xff" + REQUEST[20:],
    ],
)
def test_a_bad_request_is_an_input_error(data):
    with pytest.raises(InputError, match=r"the body|in the body"):
        decode_request(data)


@pytest.mark.parametrize(
    "data",
    [b"", b"<html>not here</html>" * 3, RESPONSE[:-4], RESPONSE + b"\0", RESPONSE[:8] + b"\xff" * 4 + RESPONSE[12:]],
)
def test_a_bad_response_is_corrupt(data):
    with pytest.raises(CorruptError, match="the answer of here"):
        decode_response(data, "here")
