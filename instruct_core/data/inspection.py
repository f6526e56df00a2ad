"""
Rows as a model sees them: where each stands in its sequence, and which of its tokens are learnt.

    for piece in pieces_seen(rows, packing, seed=1337, count=5):
        for line in lines_of(piece, rows.tokenizer):
            print(line.position, line.is_learnt, line.text)

They come in the order in which a run reads them, from its first sequence on. Learnt is what
`--loss-on response` learns; the first token of a piece follows nothing, and never is.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from instruct_core.data.batches import IGNORED, SampleReader
from instruct_core.data.packing import Packing
from instruct_core.data.shards import ShardSet
from instruct_core.data.tokenizer import Tokenizer


class Piece(NamedTuple):
    """A row, or a piece of one, in its sequence."""

    sequence: int  # in the order of reading
    place: int  # in the sequence, of its first token
    row: int
    start: int  # in the row, of its first token
    tokens: list[int]
    positions: list[int]
    learnt: list[bool]  # of each token


class Line(NamedTuple):
    """Tokens that make a line of text, line break included."""

    position: int  # of the first
    is_learnt: bool
    text: str


def pieces_seen(rows: ShardSet, packing: Packing, seed: int, count: int) -> Iterator[Piece]:
    """Yield the first pieces that a run with this seed reads; fewer where there are fewer."""
    every = _all_pieces(rows, packing, seed) if packing.num_sequences else iter(())
    return itertools.islice(every, count)


def _all_pieces(rows: ShardSet, packing: Packing, seed: int) -> Iterator[Piece]:
    reader = SampleReader(rows, packing, "response")
    for number in range(packing.num_sequences):
        [sequence] = reader.at(np.array([number], np.uint64), seed)
        batch = reader.micro_batch(np.array([sequence], np.uint64))
        first, last = packing.sequence_starts[int(sequence) : int(sequence) + 2].tolist()
        place = 0
        for piece in range(first, last):
            end = place + int(packing.lengths[piece])
            # A place's target is the token behind it.
            targets = batch.targets[0, place : end - 1] != IGNORED
            yield Piece(
                number, place, int(packing.rows[piece]), int(packing.starts[piece]),
                batch.tokens[0, place:end].tolist(), batch.positions[0, place:end].tolist(),
                [False, *targets.tolist()],
            )  # fmt: skip
            place = end


def lines_of(piece: Piece, tokenizer: Tokenizer) -> list[Line]:
    """Return a piece in lines: one ends with a line break, and where learning begins or ends."""
    lines: list[Line] = []
    held: list[int] = []
    for index, token in enumerate(piece.tokens):
        held.append(token)
        is_last = index + 1 == len(piece.tokens)
        if (
            is_last
            or piece.learnt[index + 1] != piece.learnt[index]
            or b"\n" in tokenizer.bytes_of(token)
        ):
            position = piece.positions[index] - len(held) + 1
            lines.append(Line(position, piece.learnt[index], tokenizer.decode(held)))
            held = []
    return lines
