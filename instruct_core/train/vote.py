"""
What all ranks agree on before every step, in one exchange on the CPU.

    vote = hold_vote(setup, num_loss_tokens, loss_sum, saves)
    if vote.stops: ...

Every number is a sum over the ranks. What depends on a clock, or on what a person asks, is rank 0's to
say: the others add nothing to it.
"""

from __future__ import annotations

from typing import NamedTuple

from instruct_core import ranks
from instruct_core.checkpoints.saves import Saves
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


def hold_vote(setup: Setup, num_loss_tokens: int, loss_sum: float, saves: Saves) -> Vote:
    """Return what the ranks agree on; called by all at the same step."""
    save, max_steps = setup.wishes()
    stops, tokens, loss, asked, end, due, settled = ranks.sum_over_ranks(
        [float(setup.stop()), num_loss_tokens, loss_sum, float(save), max_steps, *saves.votes()]
    )
    return Vote(
        stops > 0, tokens, loss, due > 0, asked > 0, settled == ranks.world_size(), int(end)
    )
