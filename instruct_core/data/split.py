"""
Which rows are for validation: decided by what a row says, and not by where it stands.

    texts = Texts()
    texts.add(prompt + response)                 # of every row, in any order
    drawn = texts.draw()                         # hashes ['9c0e...', 'a8d1...']: first and last
    is_val = in_validation(["a text", None], drawn.hashes)

Rows that say the same are all in one split, so no text that validates is trained on. The split is a
range of the texts' keyed hashes that holds 5 % of the rows, as nearly as copies allow; finding it
takes eight bytes a row.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import xxhash
from numpy.typing import NDArray

SPLIT_SEED = 42
VAL_FRACTION = 0.05
EVERY_HASH = ["0" * 16, "f" * 16]  # the first and the last of a range that has all
MAX_RANGES = 1000  # that are tried; the first is as good as any where nothing stands twice


class Drawn(NamedTuple):
    """The first and the last hash of the texts to validate with, and how many texts are copies."""

    hashes: list[str]  # in hexadecimal; none where all texts are the same
    num_duplicates: int


class Texts:
    """The hashes of all texts of a source."""

    def __init__(self) -> None:
        self._hashes = array("Q")

    def add(self, text: str) -> None:
        """Take one text."""
        self._hashes.append(hash_of(text))

    def extend(self, hashes: array[int]) -> None:
        """Take the hashes of some texts."""
        self._hashes.extend(hashes)

    def add_all(self, others: Texts) -> None:
        """Take the texts of another source too."""
        self.extend(others._hashes)

    def draw(self, num_rows: int | None = None) -> Drawn:
        """
        Return the split; where two texts differ, there is one at least on either side.

        Args:
            num_rows: To validate with; None takes 5 % of them.
        """
        hashes, counts = np.unique(np.frombuffer(self._hashes, np.uint64), return_counts=True)
        num_duplicates = len(self._hashes) - len(hashes)
        if len(hashes) < 2:
            return Drawn([], num_duplicates)
        wanted = round(VAL_FRACTION * len(self._hashes)) if num_rows is None else num_rows
        first, last = _range_of(max(1, wanted), counts)
        return Drawn([f"{hashes[place]:016x}" for place in (first, last)], num_duplicates)

    def num_among(self, others: Texts, hashes: Sequence[str]) -> int:
        """
        Return how many of these texts are among others too, copies counted.

        Args:
            others: The texts of another source.
            hashes: The first and the last hash of those that count; none for all.
        """
        own, theirs = (np.frombuffer(texts._hashes, np.uint64) for texts in (self, others))
        theirs = theirs[are_between(theirs, hashes)] if hashes else theirs
        return int(np.isin(own, theirs).sum())


def in_validation(texts: Sequence[str | None], hashes: Sequence[str]) -> NDArray[np.bool_]:
    """Return for each text whether it is in the range that was drawn; None is not."""
    is_text = np.array([text is not None for text in texts], bool)
    own = np.array([0 if text is None else hash_of(text) for text in texts], np.uint64)
    return is_text & are_between(own, hashes)


def are_between(own: NDArray[np.uint64], hashes: Sequence[str]) -> NDArray[np.bool_]:
    """Return for the hash of each text whether it is in the range that was drawn."""
    if not hashes:
        return np.zeros(len(own), dtype=bool)
    first, last = (np.uint64(int(text, 16)) for text in hashes)
    return (first <= own) & (own <= last)


def hash_of(text: str) -> int:
    """Return the keyed hash of a text."""
    return xxhash.xxh3_64_intdigest(text.encode(), SPLIT_SEED)


def _range_of(wanted: int, counts: NDArray[np.int64]) -> tuple[int, int]:
    """Return the first and the last place of a range with as nearly as can be the wanted sum."""
    sums = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
    best, miss = (0, 0), float("inf")
    for first in range(min(len(counts), MAX_RANGES)):
        end = int(np.searchsorted(sums, sums[first] + wanted))  # the first that is enough
        for last in (end - 2, end - 1):
            # Neither split may be empty.
            if not first <= last < len(counts) or last - first + 1 == len(counts):
                continue
            found = abs(int(sums[last + 1] - sums[first]) - wanted)
            if found < miss:
                best, miss = (first, last), found
        if not miss:
            break
    return best
