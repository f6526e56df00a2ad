"""
What a tokenizer is given, and what it gives back: rows of parts, rows of tokens.

    stretches_of(["What is AI?", " A field.", 50256])   # [Stretch(["What is AI?", " A field."], 50256)]
    token_type(49152)                                   # np.uint16
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Part = str | int  # of a row: a text, or one token by its number


class EncodedRows(NamedTuple):
    """
    Rows as tokens, one after another.

    Attributes:
        tokens: All of them, in the type that a shard has.
        row_ends: For each row, where it ends in them.
        part_starts: For each part of each row, in order, the token that holds its first character;
            of an empty text, the token that follows it.
    """

    tokens: NDArray[Any]
    row_ends: NDArray[np.int64]
    part_starts: NDArray[np.int64]


def token_type(vocab_size: int) -> type[np.uint16 | np.uint32]:
    """Return the type in which the tokens of a vocabulary are stored."""
    return np.uint16 if vocab_size <= 1 << 16 else np.uint32


class Stretch(NamedTuple):
    """Texts of a row that stand side by side, and the token behind them, if there is one."""

    texts: list[str]
    token: int | None


def stretches_of(parts: Sequence[Part]) -> list[Stretch]:
    """Return a row's parts as stretches; only the last one may end without a token."""
    stretches: list[Stretch] = []
    texts: list[str] = []
    for part in parts:
        if isinstance(part, str):
            texts.append(part)
        else:
            stretches.append(Stretch(texts, part))
            texts = []
    return [*stretches, Stretch(texts, None)] if texts else stretches
