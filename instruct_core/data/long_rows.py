"""
Rows that are longer than a sequence: what becomes of them.

    pieces_of(np.array([3, 10]), 4, "cut")      # rows 0, 1, 1, 1; starts 0, 0, 4, 8; lengths 3, 4, 4, 2

How long a sequence is, a run decides (--seq-len), and so it is there that rows are cut, truncated or
dropped; which of the three, the shard set says. No torch.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

LongRows = Literal["cut", "truncate", "drop"]


def pieces_of(
    lengths: NDArray[np.int64], seq_len: int, long_rows: LongRows
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """
    Return (row, start, length) of every piece; a row of at most seq_len tokens is one piece.

    Args:
        lengths: Tokens of every row.
        seq_len: Tokens of a piece at most.
        long_rows: "cut" makes several pieces of a longer row, "truncate" takes the first of them,
            "drop" takes none.
    """
    if long_rows == "cut":
        num_pieces = -(-lengths // seq_len)
    else:
        num_pieces = (lengths <= (seq_len if long_rows == "drop" else lengths)).astype(np.int64)
    rows = np.repeat(np.arange(len(lengths)), num_pieces)
    first_pieces = np.cumsum(num_pieces) - num_pieces
    starts = (np.arange(len(rows)) - first_pieces[rows]) * seq_len
    return rows, starts, np.minimum(lengths[rows] - starts, seq_len)
