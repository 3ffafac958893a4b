"""The rules of an API key on the client's side. Imports no grpc, for the commands' sake."""

from __future__ import annotations


def checked_api_key(text: str) -> str:
    """Returns the key without the blanks around it, as a file or a shell leaves a newline behind.

    Raises ValueError with one sentence, without the key, for a text that no header can carry.
    """
    key = text.strip()
    if not (key.isascii() and key.isprintable()):
        raise ValueError("the API key has a line break or a character outside ASCII; give the key alone, on one line")
    return key
