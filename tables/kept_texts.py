"""The strings that a packed row carries, for features with ``keep_strings``.

uint32 length, MessagePack of that length, zeros up to a multiple of 8 bytes. The MessagePack is a list with one list of
byte strings (UTF-8, a lone surrogate as its three bytes) for each such feature, in the order of the layout: single ids,
then bags. An empty string of bytes: the row came to wait before its strings were asked for.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import msgspec

_LENGTH = struct.Struct("<I")
_decoder = msgspec.msgpack.Decoder(list[list[bytes]])


def packed_texts(texts: Sequence[Sequence[str]]) -> bytes:
    """The strings of each feature of one sample."""
    data = msgspec.msgpack.encode([[text.encode("utf-8", "surrogatepass") for text in one] for one in texts])
    return _LENGTH.pack(len(data)) + data + bytes(-(_LENGTH.size + len(data)) % 8)


def unpacked_texts(data: bytes) -> list[list[str]]:
    """What `packed_texts` packed. Raises ValueError for what it did not."""
    if not data:
        return []
    (length,) = _LENGTH.unpack_from(data)
    return [
        [text.decode("utf-8", "surrogatepass") for text in one]
        for one in _decoder.decode(data[_LENGTH.size : _LENGTH.size + length])
    ]
