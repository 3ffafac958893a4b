"""The bytes of single tokens, whatever form the tokenizer stores them in."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_WORD_BOUNDARY = "\u2581"
_REPLACEMENT = "\ufffd"


class Vocabulary:
    """Knows a tokenizer's tokens as bytes.

    Byte-level tokenizers (GPT-2's kind) spell each byte as one printable character, sentencepiece
    ones write "▁" for a space and "<0x0A>" for a lone byte. Decoding a single id would lose both.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._size = len(tokenizer)
        self._special = frozenset(getattr(tokenizer, "all_special_ids", ()))
        self._is_byte_level = _is_byte_level(tokenizer)

    def __contains__(self, token_id: int) -> bool:
        return 0 <= token_id < self._size

    def token_bytes(self, token_id: int) -> bytes:
        """Returns the token's own bytes; a lone byte of a character stays that byte."""
        piece = self._tokenizer.convert_ids_to_tokens([token_id])[0]
        if piece is not None and _REPLACEMENT in piece:
            # Mistral's tokenizers tell the bytes of a part of a character only where marks are left out.
            piece = next(iter(self._tokenizer.convert_ids_to_tokens([token_id], skip_special_tokens=True)), piece)
        if piece is None:
            return b""
        if isinstance(piece, bytes):
            return piece
        if token_id in self._special:
            return str(piece).encode()
        if self._is_byte_level:
            return _byte_level_bytes(piece)
        lone_byte = _BYTE_TOKEN.fullmatch(piece)
        if lone_byte:
            return bytes([int(lone_byte[1], 16)])
        return str(piece).replace(_WORD_BOUNDARY, " ").encode()


def _is_byte_level(tokenizer: Any) -> bool:
    """Tells byte-level vocabularies by the character that stands for a space in them."""
    vocabulary = tokenizer.get_vocab()
    return "\u0120" in vocabulary or "\u0120the" in vocabulary


def _byte_level_bytes(piece: str) -> bytes:
    table = _byte_of_character()
    if all(character in table for character in piece):
        return bytes(table[character] for character in piece)
    return piece.encode()  # an added token, stored as plain text


@lru_cache(maxsize=1)
def _byte_of_character() -> dict[str, int]:
    """GPT-2's table: printable bytes stand for themselves, the others for characters from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {chr(byte): byte for byte in printable}
    others = [byte for byte in range(256) if byte not in printable]
    table.update({chr(0x100 + index): byte for index, byte in enumerate(others)})
    return table
