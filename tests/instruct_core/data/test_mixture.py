"""Several sources with weights: the shares are kept, and the order is one integer's."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from instruct_core.data import mixture
from instruct_core.data.mixture import PERIOD, Share, mixed_sample_at, places_of

WEIGHTS = st.lists(st.floats(0.01, 100), min_size=1, max_size=6)


def order_of(shares: list[Share], start: int, stop: int, seed: int = 7) -> np.ndarray:
    return mixed_sample_at(np.arange(start, stop, dtype=np.uint64), shares, seed)


def source_of(samples: np.ndarray, shares: list[Share]) -> np.ndarray:
    ends = np.cumsum([share.sequences for share in shares])
    return np.searchsorted(ends, samples, side="right")


@given(WEIGHTS)
def test_every_thousand_has_a_place_for_each_weight(weights: list[float]) -> None:
    places = places_of(weights)

    assert sum(places) == PERIOD
    for count, weight in zip(places, weights, strict=True):
        assert abs(count / PERIOD - weight / sum(weights)) <= 1 / PERIOD


def test_every_python_gives_a_weight_the_same_places(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = [(0.4, 0.1, 0.1), (1.0, 0.1, 0.1), (0.1, 0.05, 0.01)]

    # As Python's own sum does from 3.12 on: it makes up for what rounding lost.
    monkeypatch.setattr(mixture, "sum", math.fsum, raising=False)

    assert list(map(places_of, weights)) == [[667, 167, 166], [833, 84, 83], [625, 312, 63]]


@pytest.mark.parametrize("weights", [(0.7, 0.3), (0.5, 0.25, 0.25), (0.9, 0.1), (1.0,)])
@pytest.mark.parametrize("num_samples", [300, 999, 12_345])
def test_shares_are_within_a_hundredth_from_the_first_hundreds_on(
    weights: tuple[float, ...], num_samples: int
) -> None:
    shares = [Share(50 * (number + 1), weight) for number, weight in enumerate(weights)]

    samples = order_of(shares, 0, num_samples)

    found = np.bincount(source_of(samples, shares), minlength=len(weights)) / num_samples
    assert np.abs(found - weights).max() < 0.01


def test_each_source_is_read_whole_before_any_of_it_is_read_again() -> None:
    shares = [Share(40, 0.7), Share(90, 0.3)]

    samples = order_of(shares, 0, 5000)

    for number, (first, size) in enumerate([(0, 40), (40, 90)]):
        own = samples[source_of(samples, shares) == number] - first
        for epoch in range(len(own) // size):
            read = own[epoch * size : (epoch + 1) * size]
            assert sorted(read.tolist()) == list(range(size))
    assert len({tuple(order_of(shares, 0, 50, seed)) for seed in range(4)}) == 4


def test_order_is_the_same_in_whatever_pieces_it_is_asked_for() -> None:
    shares = [Share(40, 0.7), Share(90, 0.2), Share(3, 0.1)]
    whole = order_of(shares, 0, 4096)

    for world_size in (1, 2, 4, 8):
        steps = whole.reshape(-1, 32)
        for step in (0, 31, 127):
            ranks = [
                order_of(shares, step * 32 + rank * (32 // world_size),
                         step * 32 + (rank + 1) * (32 // world_size))
                for rank in range(world_size)
            ]  # fmt: skip
            assert np.concatenate(ranks).tolist() == steps[step].tolist()


def test_neighbours_in_the_order_change_sources_evenly() -> None:
    shares = [Share(1000, 0.5), Share(1000, 0.5)]

    source = source_of(order_of(shares, 0, PERIOD), shares)

    longest = max(
        len(run)
        for run in "".join(map(str, source)).replace("10", "1 0").replace("01", "0 1").split()
    )
    assert longest <= 3
