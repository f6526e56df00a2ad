"""
What long rows cost: tokens that are learnt without their question, or not at all.

    lost = lost_of(rows, packing)
    lost.num_rows, lost.alone        # 12, 0.03: of all response tokens, learnt without their question
    learns_nothing(rows, packing, "response")       # False: some response begins within a sequence
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from instruct_core.data.packing import Packing, pack
from instruct_core.data.shards import ShardSet
from instruct_core.errors import ConfigError
from instruct_core.recipe import LossOn


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


def learns_nothing(rows: ShardSet, packing: Packing, loss_on: LossOn) -> bool:
    """Tell whether no token of a split is a target: all answers lie beyond what is read of their rows."""
    return not _learns(rows, packing, loss_on, 0, len(rows))


def _learns(rows: ShardSet, packing: Packing, loss_on: LossOn, begin: int, end: int) -> bool:
    """Tell whether a token of the rows from ``begin`` to ``end`` is a target."""
    read = packing.rows[(begin <= packing.rows) & (packing.rows < end)]
    if loss_on == "all" or rows.long_rows == "cut":
        return len(read) > 0
    # A piece's last place has the token behind it as its target; the first row mostly has an answer.
    return any(rows.spans(row)[0, 0] <= packing.seq_len for row in read.tolist())


def fate_of(rows: ShardSet) -> str:
    """Return what is said of each row of a split from which nothing is learnt."""
    if rows.long_rows == "drop":
        return "longer, and left out by --long-rows drop"
    return "cut off before its answer"


def check_learns(rows: ShardSet, packing: Packing, loss_on: LossOn) -> None:
    """Refuse a split, or a source of it with a weight, that has nothing to learn; raises ConfigError."""
    if learns_nothing(rows, packing, loss_on):
        raise ConfigError(
            f"--seq-len {packing.seq_len} leaves nothing to learn: every row is {fate_of(rows)}. Give a "
            f"longer --seq-len; the longest row has {rows.lengths().max(initial=0):,} tokens."
        )
    end = 0
    for (count, _), source in zip(rows.groups, rows.sources, strict=True):
        begin, end = end, end + count
        if not count:
            raise ConfigError(
                f"Source {source} has a weight and no row to train on: its rows validate. Make shards "
                "without it."
            )
        if not _learns(rows, packing, loss_on, begin, end):
            raise ConfigError(
                f"--seq-len {packing.seq_len} leaves nothing to learn of {source}, which has a weight: "
                f"every row of it is {fate_of(rows)}. Give a longer --seq-len, or make shards without "
                f"it; its longest row has {rows.lengths()[begin:end].max():,} tokens."
            )


def measurable(rows: ShardSet, packing: Packing, loss_on: LossOn) -> Packing:
    """Return a packing to validate with: nothing, where a loss would be a mean over no token."""
    if learns_nothing(rows, packing, loss_on):
        return pack(rows.lengths()[:0], packing.seq_len, seed=0)
    return packing
