"""
The bytes behind the pieces of a vocabulary, by the two ways in which pieces are spelled.

    spelling = spelling_of({"type": "ByteLevel"}, "models/mine/tokenizer.json")
    spelling.bytes_of("Ġblue")          # b" blue"
    spelling.bytes_of("<0xC3>")         # b"\\xc3" where bytes are spelled like this

Sources: tokenizers' Rust code, pre_tokenizers/byte_level.rs (one character a byte),
decoders/byte_fallback.rs and pre_tokenizers/metaspace.rs (`▁` for a blank, `<0xC3>` for a byte).
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from instruct_core.errors import ConfigError

_PRINTABLE = [b for b in range(256) if chr(b).isprintable() and chr(b) != " "]
_HIDDEN = [b for b in range(256) if b not in _PRINTABLE]
# Bytes that do not print are written as the characters from U+0100 on.
BYTE_OF_CHAR = {chr(b): b for b in _PRINTABLE} | {chr(256 + n): b for n, b in enumerate(_HIDDEN)}

BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class Spelling(NamedTuple):
    """
    How pieces spell bytes.

    Attributes:
        is_byte_level: Each character is a byte.
        blank: The character that stands for a blank, or "".
        has_bytes: Pieces like <0xC3> are bytes.
        strips_blank: A blank at the beginning of a text is none of its own.
    """

    is_byte_level: bool = False
    blank: str = ""
    has_bytes: bool = False
    strips_blank: bool = False

    def bytes_of(self, piece: str) -> bytes:
        """Return the bytes of a piece, which may be a part of a character."""
        if self.is_byte_level and all(char in BYTE_OF_CHAR for char in piece):
            return bytes(BYTE_OF_CHAR[char] for char in piece)
        if self.has_bytes and (byte := BYTE.fullmatch(piece)):
            return bytes([int(byte[1], 16)])
        return (piece.replace(self.blank, " ") if self.blank else piece).encode()


def spelling_of(decoder: Any, where: str) -> Spelling:
    """
    Return how the pieces of a tokenizer are spelled, by the decoder in its tokenizer.json.

    Raises:
        ConfigError: In another way; ``where`` names the file.
    """
    steps = decoder.get("decoders", [decoder]) if isinstance(decoder, dict) else []
    spelling = Spelling()
    for step in steps:
        match step:
            case {"type": "ByteLevel"}:
                spelling = spelling._replace(is_byte_level=True)
            case {"type": "Metaspace", "replacement": str(blank)}:
                strips = step.get("prepend_scheme", "always") != "never"
                spelling = spelling._replace(blank=blank, strips_blank=strips)
            case {"type": "Replace", "pattern": {"String": str(blank)}, "content": " "}:
                spelling = spelling._replace(blank=blank)
            case {"type": "ByteFallback"}:
                spelling = spelling._replace(has_bytes=True)
            case {"type": "Strip", "content": " ", "start": 1, "stop": 0}:
                spelling = spelling._replace(strips_blank=True)
            case {"type": "Fuse"}:
                pass
            case _:
                raise _not_read(step, where)
    if not spelling.is_byte_level and not spelling.blank:
        raise _not_read(decoder, where)
    return spelling


def _not_read(decoder: Any, where: str) -> ConfigError:
    kind = decoder.get("type") if isinstance(decoder, dict) else decoder
    return ConfigError(
        f"Tokenizer {where} has the decoder {kind}, which is not read. Read are ByteLevel, and "
        "Metaspace or Replace, with ByteFallback or without."
    )
