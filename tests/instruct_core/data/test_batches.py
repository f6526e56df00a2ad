"""Tokens, targets and masks of packed rows."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from instruct_core.data.batches import IGNORED, SampleReader, row_starts
from instruct_core.data.gpt2_tokenizer import END_OF_TEXT_ID
from instruct_core.data.packing import pack
from instruct_core.data.shards import ShardSet
from instruct_core.storage.store import Store


@pytest.fixture
def rows(shard_set: Path) -> ShardSet:
    return ShardSet(Store(shard_set), "train")


@pytest.mark.parametrize("seq_len", [16, 64, 256])
def test_targets_are_each_rows_next_tokens(rows: ShardSet, seq_len: int) -> None:
    packing = pack(rows.lengths(), seq_len, seed=1)
    reader = SampleReader(rows, packing, "all")

    batch = reader.micro_batch(np.arange(len(reader), dtype=np.uint64))

    # A row of n tokens has n - 1 targets, wherever it was cut.
    assert batch.num_loss_tokens == rows.lengths().sum() - len(rows)
    inside = (batch.targets[:, :-1] != IGNORED) & (batch.row_ids[:, :-1] == batch.row_ids[:, 1:])
    assert np.array_equal(batch.targets[:, :-1][inside], batch.tokens[:, 1:][inside])


def test_last_token_of_a_row_does_not_predict_the_next_row(rows: ShardSet) -> None:
    reader = SampleReader(rows, pack(rows.lengths(), 64, seed=1), "all")

    batch = reader.micro_batch(np.arange(len(reader), dtype=np.uint64))

    assert (batch.targets[batch.tokens == END_OF_TEXT_ID] == IGNORED).all()


def test_response_loss_leaves_the_prompt_out(rows: ShardSet) -> None:
    packing = pack(rows.lengths(), 64, seed=1)
    everything = np.arange(packing.num_sequences, dtype=np.uint64)

    batch = SampleReader(rows, packing, "response").micro_batch(everything)

    responses = [rows.lengths()[row] - rows.spans(row)[0, 0] for row in range(len(rows))]
    assert batch.num_loss_tokens == sum(responses)


@pytest.mark.parametrize("seq_len", [16, 64])
def test_positions_begin_anew_in_every_row_and_in_every_piece_of_one(
    rows: ShardSet, seq_len: int
) -> None:
    packing = pack(rows.lengths(), seq_len, seed=1)
    assert bool(packing.starts.any()) == (seq_len == 16), "only there rows are cut"
    reader = SampleReader(rows, packing, "all")

    batch = reader.micro_batch(np.arange(len(reader), dtype=np.uint64))

    for positions, row_ids in zip(batch.positions, batch.row_ids, strict=True):
        for row in set(row_ids.tolist()) - {-1}:
            there = positions[row_ids == row]
            assert np.array_equal(there, np.arange(len(there)))


def test_starts_of_rows_and_the_end(rows: ShardSet) -> None:
    reader = SampleReader(rows, pack(rows.lengths(), 64, seed=1), "all")
    batch = reader.micro_batch(np.arange(3, dtype=np.uint64))

    starts = row_starts(batch.row_ids)

    assert len(starts) - 1 == sum(len(set(ids.tolist())) for ids in batch.row_ids)
    assert starts[0] == 0
    assert starts[-1] == 3 * 64
    ids = batch.row_ids.ravel()
    for start, end in itertools.pairwise(starts.tolist()):
        assert start < end
        assert start // 64 == (end - 1) // 64, "a row crosses sequences"
        assert len(set(ids[start:end].tolist())) == 1
