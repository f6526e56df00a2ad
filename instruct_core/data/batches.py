"""
Micro-batches as a pure function of a position in the reading order.

    samples = SampleReader(rows, packing, loss_on="all")
    batch = samples.micro_batch(sequence_indices)          # arrays of (B, T)

A sample is one packed sequence. Which samples a step reads follows from `samples_seen` alone
(see order.py); this module turns sample numbers into tokens. B: micro-batch size, T: seq_len.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from instruct_core.data.mixture import mixed_sample_at
from instruct_core.data.order import sample_at
from instruct_core.data.packing import Packing, shares_of
from instruct_core.data.shards import ShardSet
from instruct_core.recipe import LossOn

IGNORED = -100  # a target that no loss is taken on: torch's cross_entropy knows it by this number


class MicroBatch(NamedTuple):
    """One forward of one rank."""

    tokens: NDArray[np.int64]  # (B, T)
    targets: NDArray[np.int64]  # (B, T), the next token of the same row, or IGNORED
    positions: NDArray[np.int64]  # (B, T), from 0 in every row
    row_ids: NDArray[np.int32]  # (B, T), equal where attention may look; padding is a row too

    @property
    def num_loss_tokens(self) -> int:
        """Targets that count."""
        return int((self.targets != IGNORED).sum())


def without_loss(batch: MicroBatch) -> MicroBatch:
    """Return a micro-batch of which nothing is learnt: its loss and its gradients are 0."""
    return batch._replace(targets=np.full_like(batch.targets, IGNORED))


def row_starts(row_ids: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return where each row begins among the B x T tokens, and their end. (rows + 1,)"""
    begins = np.ones_like(row_ids, dtype=bool)
    begins[:, 1:] = row_ids[:, 1:] != row_ids[:, :-1]
    return np.append(np.flatnonzero(begins), row_ids.size).astype(np.int32)


class SampleReader:
    """
    Packed sequences by number.

    Args:
        rows: The split's rows.
        packing: Which rows make each sequence.
        loss_on: "all" learns prompt and response, "response" only what the assistant says, and its end.
    """

    def __init__(self, rows: ShardSet, packing: Packing, loss_on: LossOn) -> None:
        self._rows, self._packing, self._loss_on = rows, packing, loss_on
        self._shares = shares_of(packing, rows.groups) if rows.groups else []

    def __len__(self) -> int:
        return self._packing.num_sequences

    def at(self, positions: NDArray[np.uint64], seed: int) -> NDArray[np.uint64]:
        """Return which sequences stand at positions of the reading order; see order.py."""
        if self._shares:
            return mixed_sample_at(positions, self._shares, seed)
        return sample_at(positions, len(self), seed)

    def micro_batch(self, sequences: NDArray[np.uint64]) -> MicroBatch:
        """Return the given sequences; B is their number."""
        shape = (len(sequences), self._packing.seq_len)
        batch = MicroBatch(
            np.full(shape, self._rows.end_id, np.int64),
            np.full(shape, IGNORED, np.int64),
            np.zeros(shape, np.int64),
            np.full(shape, -1, np.int32),
        )
        for index, sequence in enumerate(sequences.tolist()):
            self._fill(batch, index, sequence)
        return batch

    def _fill(self, batch: MicroBatch, index: int, sequence: int) -> None:
        rows, starts, lengths, sequence_starts, _ = self._packing
        place = 0
        first, stop = sequence_starts[sequence : sequence + 2].tolist()
        for piece in range(first, stop):
            row, start, length = int(rows[piece]), int(starts[piece]), int(lengths[piece])
            end = place + length
            # One token more: a piece of a cut row is followed by the next piece's first token.
            tokens = self._rows.tokens(row, start, length + 1)
            batch.tokens[index, place:end] = tokens[:length]
            batch.row_ids[index, place:end] = piece - first
            # A piece starts its positions anew: it does not see the pieces before it.
            batch.positions[index, place:end] = np.arange(length)
            for first_token, last_token in self._learnt(row, start, len(tokens)):
                # Token t is the target at place t - 1.
                targets = tokens[first_token:last_token]
                batch.targets[index, place + first_token - 1 : place + last_token - 1] = targets
            place = end

    def _learnt(self, row: int, start: int, length: int) -> Iterator[tuple[int, int]]:
        """Yield from where to where a piece's tokens are targets, counted from its first."""
        spans = [[start, start + length]]
        if self._loss_on == "response":
            spans = self._rows.spans(row).tolist()
        for first, last in spans:
            # A piece's first token follows nothing.
            if (begin := max(1, first - start)) < (end := min(length, last - start)):
                yield begin, end
