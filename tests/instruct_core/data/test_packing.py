"""Every token in exactly one place, sequences nearly full, rows whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instruct_core.data.order import sample_at
from instruct_core.data.packing import load_packing, pack
from instruct_core.data.set_manifest import load_manifest
from instruct_core.data.shards import ShardSet
from instruct_core.storage.store import Store


@settings(deadline=None)
@given(st.lists(st.integers(1, 40), max_size=80), st.integers(1, 16), st.integers(0, 9))
def test_every_token_has_exactly_one_place(lengths: list[int], seq_len: int, seed: int) -> None:
    packing = pack(np.array(lengths, np.int64), seq_len, seed)

    places = [
        (row, token)
        for row, start, length in zip(packing.rows, packing.starts, packing.lengths, strict=True)
        for token in range(start, start + length)
    ]
    per_sequence = np.add.reduceat(packing.lengths, packing.sequence_starts[:-1]) if lengths else []
    assert sorted(places) == [(r, t) for r, n in enumerate(lengths) for t in range(n)]
    assert all(0 < tokens <= seq_len for tokens in per_sequence)


def test_row_is_cut_only_if_it_is_longer_than_a_sequence() -> None:
    packing = pack(np.array([10, 25, 3], np.int64), 10, seed=1)

    pieces = sorted(zip(packing.rows, packing.starts, packing.lengths, strict=True))

    assert pieces == [(0, 0, 10), (1, 0, 10), (1, 10, 10), (1, 20, 5), (2, 0, 3)]


@pytest.mark.parametrize("mean_log_length", [4.0, 5.0, 5.7])
def test_alpaca_like_lengths_fill_97_percent(mean_log_length: float) -> None:
    draw = np.random.default_rng(5)
    lengths = np.clip(draw.lognormal(mean_log_length, 0.7, 52_000).astype(np.int64), 12, 2000)

    assert pack(lengths, 1024, seed=1337).filled > 0.97


def test_rows_of_like_length_do_not_seek_each_other() -> None:
    lengths = np.repeat([30, 60, 90, 120], 500)
    packing = pack(lengths, 512, seed=1)

    inside = np.setdiff1d(np.arange(1, len(packing.rows)), packing.sequence_starts)
    alike = np.mean(packing.lengths[inside] == packing.lengths[inside - 1])

    assert alike < 0.35, "one in four is chance"


@pytest.mark.parametrize("shortest", [600, 511], ids=["no two share", "some share"])
def test_first_epoch_is_not_read_in_the_order_of_the_source(shortest: int) -> None:
    lengths = np.random.default_rng(0).integers(shortest, 1025, 5000)

    packing = pack(lengths, 1024, seed=1337)

    places = np.arange(packing.num_sequences, dtype=np.uint64)
    read = packing.sequence_starts[sample_at(places, packing.num_sequences, 1337).astype(np.int64)]
    rows = packing.rows[read]
    assert np.mean(np.abs(rows - places.astype(np.int64)) < 50) < 0.05, "0.02 is chance"
    assert abs(np.corrcoef(rows, places)[0, 1]) < 0.05


def test_packing_depends_on_lengths_and_seed_alone() -> None:
    lengths = np.random.default_rng(1).integers(1, 50, 500)

    first, again, other = (pack(lengths, 64, seed) for seed in (1, 1, 2))

    assert all(np.array_equal(a, b) for a, b in zip(first[:4], again[:4], strict=True))
    assert not np.array_equal(first.rows, other.rows)


def test_cache_of_other_shards_is_not_used(shard_set: Path, tmp_path: Path) -> None:
    rows = ShardSet(Store(shard_set), "train", load_manifest(Store(shard_set)))
    cache = Store(tmp_path)
    load_packing(cache, rows, "train", "old fingerprint", 64, 1)
    name = "packing/train-64-1.safetensors"
    before = cache.read(name)

    packing = load_packing(cache, rows, "train", "new fingerprint", 64, 1)

    assert packing.num_sequences > 0
    assert cache.read(name) != before
