"""
What long rows cost: tokens that are learnt without their question, or not at all.

    lost = lost_of(rows, packing)
    lost.num_rows, lost.alone        # 12, 0.03: of all response tokens, learnt without their question
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from instruct_core.data.packing import Packing
from instruct_core.data.shards import ShardSet


class Lost(NamedTuple):
    """What long rows come to."""

    num_rows: int  # that are longer than a sequence
    alone: float  # share of all response tokens that are learnt without their question, 0..1
    unread: float  # share of all response tokens that are not read at all, 0..1
    num_silent: int  # rows that are truncated before their first response


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
