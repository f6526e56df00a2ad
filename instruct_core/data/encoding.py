"""
Rendered rows as tokens, and which of these are learnt.

    rows = encode([template.segments(chat.turns) for chat in chats], tokenizer)
    rows.tokens[rows.offsets[3] : rows.offsets[4]]         # of row 3
    rows.spans[rows.span_offsets[3] : rows.span_offsets[4]]       # [[14, 20], [41, 57]] of its tokens

Text between two special tokens is encoded in one piece, as everybody's tokenizers do; where a learnt
piece begins inside it is found afterwards. A row ends with the special token behind its last answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from instruct_core.data.template import Segment
from instruct_core.data.token_rows import EncodedRows, Part
from instruct_core.data.tokenizer import Tokenizer

SPANS_FORMAT = 3  # of shards, from which on they keep spans: rows of one exchange need none
ENCODE_CHARS = 1 << 20  # text per call of the tokenizer: large enough to fill it, small in memory


class Encoded(NamedTuple):
    """Rows as tokens."""

    tokens: NDArray[Any]  # of all rows one after another
    offsets: NDArray[np.int64]  # where each row begins and ends, (rows + 1,)
    spans: NDArray[np.int64]  # learnt tokens, counted from their row's first: from, to. (spans, 2)
    span_offsets: NDArray[np.int64]  # (rows + 1,)


def encode(rows: Sequence[Sequence[Segment]], tokenizer: Tokenizer) -> Encoded:
    """
    Return the tokens of rows, and the spans of them that are learnt.

    Raises:
        ValueError: The tokenizer has no such special token.
    """
    kept, ids = [_up_to_its_end(row) for row in rows], _Ids(tokenizer)
    parts = [[ids[s.text] if s.is_special else s.text for s in row] for row in kept]
    tokens, ends, starts = _encode_rows(parts, tokenizer)
    offsets = np.concatenate([np.zeros(1, np.int64), ends])
    learnt = np.flatnonzero([segment.is_learnt for row in kept for segment in row])
    spans = np.stack([starts[learnt], np.append(starts[1:], len(tokens))[learnt]], axis=1)
    row_of_part = np.repeat(np.arange(len(kept)), [len(row) for row in kept])
    spans, row_of_span = _joined(spans, row_of_part[learnt])
    counts = np.bincount(row_of_span, minlength=len(kept))
    return Encoded(
        tokens,
        offsets,
        spans - offsets[row_of_span][:, None],
        np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)]),
    )


def joined(parts: Sequence[Encoded]) -> Encoded:
    """Return the rows of several, one after another."""
    tokens, offsets, spans, span_offsets = zip(*parts, strict=True)
    return Encoded(
        np.concatenate(tokens), _continued(offsets), np.concatenate(spans), _continued(span_offsets)
    )


def _continued(parts: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Return offsets that begin at 0 each as those of one."""
    counts = [np.diff(part) for part in parts]
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(np.concatenate(counts))])


def prompt_tokens(segments: Sequence[Segment], tokenizer: Tokenizer) -> list[int]:
    """Return the tokens of what leads up to an answer."""
    ids = _Ids(tokenizer)
    return tokenizer.encode(*(ids[s.text] if s.is_special else s.text for s in segments))


def _up_to_its_end(row: Sequence[Segment]) -> Sequence[Segment]:
    """Return a row without what a template writes behind the end of the last answer."""
    if row and row[-1].is_special and row[-1].is_learnt:  # as most are: no search
        return row
    last = max((n for n, s in enumerate(row) if s.is_special and s.is_learnt), default=len(row) - 1)
    return row[: last + 1]


class _Ids(dict[str, int]):
    """The special tokens of a tokenizer, by how they are spelled; every row ends with one."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def __missing__(self, text: str) -> int:
        token = self._tokenizer.special_id(text)
        if token is None:
            raise ValueError(f"tokenizer {self._tokenizer.name} has no special token {text}")
        self[text] = token
        return token


def _encode_rows(rows: Sequence[Sequence[Part]], tokenizer: Tokenizer) -> EncodedRows:
    """Encode in calls of about a megabyte: one huge call would hold everything several times."""
    found = [] if rows else [tokenizer.encode_rows([])]
    batch: list[Sequence[Part]] = []
    num_chars = total = 0
    for index, row in enumerate(rows):
        batch.append(row)
        num_chars += sum([len(part) for part in row if isinstance(part, str)])
        if num_chars >= ENCODE_CHARS or index == len(rows) - 1:
            tokens, ends, starts = tokenizer.encode_rows(batch)
            found.append(EncodedRows(tokens, ends + total, starts + total))
            total += len(tokens)
            batch, num_chars = [], 0
    return EncodedRows(*(np.concatenate(arrays) for arrays in zip(*found, strict=True)))


def _joined(
    spans: NDArray[np.int64], rows: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return spans with those of a row that touch as one, as an answer and its end do."""
    if not len(spans):
        return spans, rows
    touches = (spans[1:, 0] == spans[:-1, 1]) & (rows[1:] == rows[:-1])
    firsts = np.concatenate([[True], ~touches])
    lasts = np.concatenate([~touches, [True]])
    return np.stack([spans[firsts, 0], spans[lasts, 1]], axis=1), rows[firsts]
