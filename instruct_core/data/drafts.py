"""
Tokens of rows that were encoded while they were checked, kept until it is known where they belong.

    spool = Spool(folder, num_files=2, tokenizer=tokenizer)
    draft = spool.writer(0).write(block_of_segments, hashes_of_their_texts)
    spool.drafts.append(draft)                     # in the order of the source
    rows, hashes = spool.rows(first_block=0, num_blocks=1)

Which shard a row is in depends on how many rows there are, and its split on what all others say. So a
block waits in a file that has no name: nothing of it counts, and nothing is left when the process ends.
"""

from __future__ import annotations

import os
import tempfile
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from instruct_core.data.encoding import Encoded, encode, joined
from instruct_core.data.template import Segment
from instruct_core.data.token_rows import token_type
from instruct_core.data.tokenizer import Tokenizer

BLOCK_ROWS = 250  # shards are whole blocks; 64 shards or more from 16,000 rows on
MAX_BLOCKS_PER_SHARD = 40


def default_rows_per_shard(num_rows: int) -> int:
    """Return how many source rows go into a shard: a function of the source alone."""
    blocks = -(-num_rows // BLOCK_ROWS)
    return min(MAX_BLOCKS_PER_SHARD, max(1, blocks // 64)) * BLOCK_ROWS


class Draft(NamedTuple):
    """Where the tokens of a block lie, and how many of everything there are; bad rows have none."""

    file: int
    offset: int
    num_rows: int
    num_spans: int
    num_tokens: int


class DraftWriter:
    """
    Appends blocks to one file; nobody else does.

    Args:
        file: Its number among all.
        descriptor: Of the open file.
        tokenizer: What makes the tokens.
        place: How a disk that takes no more is called.
    """

    def __init__(self, file: int, descriptor: int, tokenizer: Tokenizer, place: str) -> None:
        self._place = place
        self._file, self._descriptor, self._tokenizer = file, descriptor, tokenizer
        self._end = 0

    def write(self, block: Sequence[Sequence[Segment]], hashes: array[int]) -> Draft:
        """Encode the good rows of a block, and keep them with the hashes of their texts."""
        rows = encode(block, self._tokenizer)
        draft = Draft(self._file, self._end, len(block), len(rows.spans), len(rows.tokens))
        parts = (np.frombuffer(hashes, np.uint64), rows.offsets, rows.span_offsets, rows.spans)
        for data in (*parts, rows.tokens):
            left = memoryview(np.ascontiguousarray(data).reshape(-1).view(np.uint8).data)
            while left:
                try:
                    written = os.pwrite(self._descriptor, left, self._end)
                except OSError as error:
                    raise OSError(error.errno, error.strerror, self._place) from None
                self._end, left = self._end + written, left[written:]
        return draft


class Spool:
    """
    The drafts of one source; closed, they are gone.

    Args:
        folder: On the disk that they lie on.
        num_files: One for each process that writes.
        tokenizer: What makes the tokens.
    """

    def __init__(self, folder: Path, num_files: int, tokenizer: Tokenizer) -> None:
        # Closed by `close`, or with the process.
        self._files = [tempfile.TemporaryFile(dir=folder) for _ in range(num_files)]  # noqa: SIM115
        self._tokenizer, self._place = tokenizer, str(folder)
        self.drafts: list[Draft] = []
        """Of all blocks, in the order of the source."""

    def writer(self, number: int) -> DraftWriter:
        """Return what appends to one of the files."""
        return DraftWriter(number, self._files[number].fileno(), self._tokenizer, self._place)

    def rows(self, first_block: int, num_blocks: int) -> tuple[Encoded, NDArray[np.uint64]]:
        """Return the good rows of blocks, and the hashes of their texts."""
        type_ = token_type(self._tokenizer.vocab_size)
        found = [
            _read(draft, self._files[draft.file].fileno(), type_)
            for draft in self.drafts[first_block : first_block + num_blocks]
        ]
        return joined([rows for rows, _ in found]), np.concatenate([hashes for _, hashes in found])

    def close(self) -> None:
        """Give the room on the disk back."""
        for file in self._files:
            file.close()


def _read(
    draft: Draft, descriptor: int, type_: type[np.uint16 | np.uint32]
) -> tuple[Encoded, NDArray[np.uint64]]:
    rows, spans = draft.num_rows, draft.num_spans
    num_words = rows + 2 * (rows + 1) + 2 * spans
    size = 8 * num_words + draft.num_tokens * np.dtype(type_).itemsize
    data = os.pread(descriptor, size, draft.offset)
    words = np.frombuffer(data, np.int64, num_words)
    hashes, offsets, span_offsets, learnt = np.split(words, np.cumsum([rows, rows + 1, rows + 1]))
    tokens = np.frombuffer(data, type_, draft.num_tokens, 8 * num_words)
    return Encoded(tokens, offsets, learnt.reshape(spans, 2), span_offsets), hashes.view(np.uint64)
