"""Guest strings are hostile: whatever is shown to an operator passes through here."""

from __future__ import annotations

MAX_SHOWN_CHARS = 160


def shown(value: object) -> str:
    """``value`` as printable ASCII, control characters escaped, at most 160 characters."""
    text = ascii(str(value)[: MAX_SHOWN_CHARS + 1])[1:-1]
    return text if len(text) <= MAX_SHOWN_CHARS else text[: MAX_SHOWN_CHARS - 3] + "..."


def decode(data: bytes) -> str:
    """Text of a guest's file. Any bytes survive a round trip through ``encode``."""
    return data.decode("utf-8", "surrogateescape")


def encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
