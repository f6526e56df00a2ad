"""The reading order: complete, different every epoch, and the same for any world size."""

from __future__ import annotations

import numpy as np
import pytest

from instruct_core.data.order import sample_at


@pytest.mark.parametrize("num_samples", [1, 2, 3, 5, 64, 1000, 49_402])
def test_epoch_reads_each_sample_exactly_once(num_samples: int) -> None:
    second_epoch = np.arange(num_samples, 2 * num_samples, dtype=np.uint64)

    samples = sample_at(second_epoch, num_samples, seed=1337)

    assert np.array_equal(np.sort(samples), np.arange(num_samples))


def test_epochs_differ() -> None:
    positions = np.arange(2000, dtype=np.uint64)

    first, second = sample_at(positions, 1000, seed=1337).reshape(2, 1000)

    assert (first == second).mean() < 0.01


def test_seek_equals_reading_on() -> None:
    everything = sample_at(np.arange(10_000, dtype=np.uint64), 1234, seed=7)

    after_a_seek = sample_at(np.arange(9_000, 10_000, dtype=np.uint64), 1234, seed=7)

    assert np.array_equal(after_a_seek, everything[9_000:])


@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
def test_ranks_together_read_the_same_samples_for_any_world_size(world_size: int) -> None:
    one_rank = sample_at(np.arange(240, dtype=np.uint64), 1000, seed=7)

    by_rank = [
        sample_at(np.arange(rank, 240, world_size, dtype=np.uint64), 1000, seed=7)
        for rank in range(world_size)
    ]

    assert np.array_equal(np.sort(np.concatenate(by_rank)), np.sort(one_rank))


def test_empty_dataset_is_refused() -> None:
    with pytest.raises(ValueError, match="num_samples must be at least 1, got 0"):
        sample_at(np.zeros(1, dtype=np.uint64), 0, seed=7)
