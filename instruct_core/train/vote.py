"""
What all ranks agree on before every step, in one exchange on the CPU.

    vote = hold_vote(setup, num_loss_tokens, landed, saves)
    if vote.stops: ...

Every number is a sum over the ranks. What depends on a clock, or on what a person asks, is rank 0's to
say: the others add nothing to it.
"""

from __future__ import annotations

from typing import NamedTuple

from instruct_core import ranks
from instruct_core.checkpoints.saves import Saves
from instruct_core.train.flight import Landed
from instruct_core.train.progress import Setup


class Vote(NamedTuple):
    """What comes next, the same on all ranks."""

    stops: bool  # a rank was warned, or somebody asked for an end
    num_loss_tokens: float  # that the next step's loss is a mean of
    loss_sum: float  # of the step that has landed
    save_is_due: bool  # by the clock
    save_is_asked: bool  # by a person
    save_is_settled: bool  # all ranks have written their parts, or failed to
    max_steps: int  # where the run should end, as far as anybody asked
    busy_seconds: list[float]  # of each rank in that step; zeros where none has landed


def hold_vote(setup: Setup, num_loss_tokens: int, landed: Landed | None, saves: Saves) -> Vote:
    """
    Return what the ranks agree on; called by all at the same step.

    Args:
        setup: Of this rank.
        num_loss_tokens: In its share of the next step.
        landed: The last step whose numbers are there, if they have not been voted on.
        saves: Of this rank.
    """
    save, max_steps = setup.wishes()
    mine = [float(setup.stop()), num_loss_tokens, float(save), max_steps, *saves.votes()]
    sums = ranks.sum_over_ranks([*mine, *shares(landed)])
    stops, tokens, asked, end, due, settled, loss, *busy = sums
    all_settled = settled == ranks.world_size()
    return Vote(stops > 0, tokens, loss, due > 0, asked > 0, all_settled, int(end), busy)


def shares(landed: Landed | None) -> list[float]:
    """Return what a rank adds to a step's loss, and to the list of all ranks' busy seconds."""
    busy = [0.0] * ranks.world_size()
    if landed is None:
        return [0.0, *busy]
    busy[ranks.rank()] = landed.busy_seconds
    return [landed.loss_sum, *busy]
