"""
What all ranks agree on before every step, in one exchange on the CPU.

    vote = hold_vote(setup, num_loss_tokens, loss_sum, saves, watch)
    if vote.stops: ...

Every number is a sum over the ranks. What depends on a clock, or on what a person asks, is rank 0's to
say: the others add nothing to it.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from instruct_core import ranks
from instruct_core.checkpoints.saves import Saves
from instruct_core.train.pace import Stopwatch
from instruct_core.train.progress import Setup


class Vote(NamedTuple):
    """What comes next, the same on all ranks."""

    stops: bool  # a rank was warned, or somebody asked for an end
    num_loss_tokens: float  # that the next step's loss is a mean of
    loss_sum: float  # of the last step
    save_is_due: bool  # by the clock
    save_is_asked: bool  # by a person
    save_is_settled: bool  # all ranks have written their parts, or failed to
    max_steps: int  # where the run should end, as far as anybody asked
    busy_seconds: list[float]  # of each rank in the last step


def hold_vote(
    setup: Setup, num_loss_tokens: int, loss_sum: Tensor, saves: Saves, watch: Stopwatch
) -> Vote:
    """Return what the ranks agree on; called by all at the same step, when the one before has ended."""
    save, max_steps = setup.wishes()
    # .item() waits for nothing: the gradient norm of the step before was waited for.
    mine = [float(setup.stop()), num_loss_tokens, loss_sum.item(), float(save), max_steps]
    busy = [0.0] * ranks.world_size()
    busy[ranks.rank()] = watch.seconds
    sums = ranks.sum_over_ranks([*mine, *saves.votes(), *busy])
    stops, tokens, loss, asked, end, due, settled, *busy = sums
    all_settled = settled == ranks.world_size()
    return Vote(stops > 0, tokens, loss, due > 0, asked > 0, all_settled, int(end), busy)
