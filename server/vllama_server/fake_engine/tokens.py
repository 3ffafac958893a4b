"""Tokens of the simulated engine: four bytes of UTF-8 each, and " hash.count" for what it generates.

Both kinds live in one 32-bit id space without overlap. A prompt token is its four bytes as a
big-endian number, a short last one padded with 0xFF, which no UTF-8 text contains. A generated
token is a number whose first byte starts a character and whose second byte is ASCII, which no
UTF-8 text contains either. So any mixture of ids turns back into exactly the text it stands for.
"""

from __future__ import annotations

import struct
from hashlib import sha256
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

TOKEN_BYTES = 4
OUTPUT_LIMIT = 1 << 13
"""Tokens that one generation can have: 13 bits of an id count them."""

_PADDING = b"\xff"
_OUTPUT_BITS = 0b11 << 30
_OUTPUT_MASK = _OUTPUT_BITS | 1 << 23


def encode(text: str) -> bytes:
    """Pads the UTF-8 bytes of a text to whole tokens. Lone surrogates become question marks."""
    data = text.encode("utf-8", "replace")
    return data + _PADDING * (-len(data) % TOKEN_BYTES)


def to_ids(data: bytes) -> tuple[int, ...]:
    """Splits padded bytes into token ids."""
    return struct.unpack(f">{len(data) // TOKEN_BYTES}I", data)


def to_bytes(ids: Sequence[int]) -> bytes:
    """Joins token ids of either kind into bytes, four for each. Raises ValueError beyond 32 bits."""
    try:
        return struct.pack(f">{len(ids)}I", *ids)
    except struct.error:
        raise ValueError("a token id is outside 0 to 4294967295") from None


def decode(ids: Iterable[int]) -> str:
    """Turns ids of both kinds back into text; bytes that are no character become U+FFFD."""
    parts: list[bytes] = []
    for id_ in ids:
        if id_ & _OUTPUT_MASK == _OUTPUT_BITS:
            parts.append(output_text(id_ & 0xFFFF, id_ >> 17 & 0x1F80 | id_ >> 16 & 0x7F).encode())
        else:
            parts.append(to_bytes((id_,)).rstrip(_PADDING))
    return b"".join(parts).decode("utf-8", "replace")


def prompt_hash(data: bytes) -> int:
    """The first 16 bits of the SHA-256 of a prompt's text."""
    return int.from_bytes(sha256(data.rstrip(_PADDING)).digest()[:2], "big")


def output_id(hash16: int, index: int) -> int:
    """The id of a generation's token `index`, which is below OUTPUT_LIMIT."""
    return _OUTPUT_BITS | (index & 0x1F80) << 17 | (index & 0x7F) << 16 | hash16


def output_text(hash16: int, index: int) -> str:
    """The text of a generation's token `index`."""
    return f" {hash16:04x}.{index}"
