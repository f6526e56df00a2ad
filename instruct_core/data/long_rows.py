"""
Rows that are longer than a sequence: what becomes of them, and what that costs.

    lost = lost_of(rows, packing)
    lost.num_rows, lost.alone        # 12, 0.03: of all response tokens, learnt without their question

How long a sequence is, a run decides (--seq-len), and so it is there that rows are cut, truncated or
dropped; which of the three, the shard set says. No torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from instruct_core.data.packing import Packing
    from instruct_core.data.shards import ShardSet

LongRows = Literal["cut", "truncate", "drop"]


class Lost(NamedTuple):
    """What long rows come to."""

    num_rows: int  # that are longer than a sequence
    alone: float  # share of all response tokens that are learnt without their question, 0..1
    unread: float  # share of all response tokens that are not read at all, 0..1
    num_silent: int  # rows that are truncated before their first response


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


def lost_of(rows: ShardSet, packing: Packing) -> Lost:
    """Return what becomes of the long rows of a split."""
    long = np.flatnonzero(rows.lengths() > packing.seq_len)
    total = max(1, rows.num_response_tokens())
    later = unread = silent = 0
    for row in long.tolist():
        spans = rows.spans(row)
        # A piece's last place has the token behind it as its target.
        reach = packing.seq_len + 1
        beyond = int((spans[:, 1] - np.maximum(spans[:, 0], reach)).clip(0).sum())
        if rows.long_rows == "cut":
            later += beyond
        elif rows.long_rows == "truncate":
            unread += beyond
            silent += bool(spans[0, 0] >= reach)
        else:
            unread += int(np.diff(spans).sum())
    return Lost(len(long), later / total, unread / total, silent)
