"""
The reading order of several sources with weights: still a pure function of one integer.

    parts = [Share(sequences=8000, weight=0.7), Share(sequences=900, weight=0.3)]
    mixed_sample_at(np.arange(64, dtype=np.uint64), parts, seed=1337)

Of every thousand positions each source gets its share to the position, and within a thousand they
stand as evenly as can be: place p of a thousand belongs to the source whose part of the thousand
p * 617 (modulo 1000) falls into. A source is read by its own order (see order.py), one epoch after
another, at the pace of its weight. So neither ranks nor resumes can change what is mixed, or how.

Sources: Weyl 1916 and Ostrowski 1922 (multiples of the golden ratio are spread evenly: 617 of a
thousand is near it, and has no divisor in common with a thousand).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from instruct_core.data.order import sample_at

PERIOD, STRIDE = 1000, 617
SEED_STEP = 0x9E3779B97F4A7C15  # between the orders of two sources


class Share(NamedTuple):
    """How many sequences a source has, and its part of all that is read, 0..1."""

    sequences: int
    weight: float


def places_of(weights: Sequence[float]) -> list[int]:
    """Return how many of a thousand positions each weight gets; their sum is a thousand."""
    # Added one after another: from 3.12 on Python's own sum adds otherwise, and the order hangs on it.
    exact = np.array(weights) / np.cumsum(weights)[-1] * PERIOD
    places = np.floor(exact).astype(np.int64)
    # The largest remainders get what is left.
    short = np.argsort(places - exact, kind="stable")[: PERIOD - int(places.sum())]
    places[short] += 1
    return [int(count) for count in places]


def mixed_sample_at(
    position: NDArray[np.uint64], shares: Sequence[Share], seed: int
) -> NDArray[np.uint64]:
    """
    Return which sequence stands at each position, counted through all sources.

    Args:
        position: Places in the order, any shape, counted from the start of the run.
        shares: The sources, in the order in which their sequences are counted.
        seed: The run's data seed.
    """
    counts = np.array(places_of([share.weight for share in shares]), dtype=np.uint64)
    period, place = np.divmod(position, np.uint64(PERIOD))
    source = np.searchsorted(np.cumsum(counts), np.arange(PERIOD) * STRIDE % PERIOD, side="right")
    sample = np.zeros_like(position)
    first = 0
    for number, share in enumerate(shares):
        is_own = source == number
        before = (np.cumsum(is_own) - is_own).astype(np.uint64)  # of this source, in one period
        here = is_own[place]
        own_position = period[here] * counts[number] + before[place[here]]
        own_seed = (seed + number * SEED_STEP) % (1 << 64)
        own = sample_at(own_position, max(1, share.sequences), own_seed)
        sample[here] = own + np.uint64(first)
        first += share.sequences
    return sample
