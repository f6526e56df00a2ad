"""
Which checkpoints remain: the last few, every Nth for good, and the best by validation loss.

    kept_steps({100: 3.1, 200: 2.7, 300: 2.9}, Keep(last=1))      # {200, 300}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Keep(NamedTuple):
    """What a run keeps."""

    last: int = 3  # newest checkpoints, at least 1
    every: int = 0  # steps divisible by it stay for good; 0 for none


def kept_steps(val_losses: Mapping[int, float | None], keep: Keep) -> set[int]:
    """
    Return the steps that stay.

    Args:
        val_losses: Every committed step and its validation loss, None where it was not evaluated.
        keep: The rule.
    """
    steps = sorted(val_losses)
    kept = set(steps[-keep.last :])
    if keep.every:
        kept |= {step for step in steps if step % keep.every == 0}
    # Of equal ones the newest.
    evaluated = [(loss, -step) for step, loss in val_losses.items() if loss is not None]
    if evaluated:
        kept.add(-min(evaluated)[1])
    return kept
