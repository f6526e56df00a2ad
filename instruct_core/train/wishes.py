"""
What people ask of a run while it trains. No torch: whoever asks reads this too.

    Wishes(save=True, max_steps=400)
"""

from __future__ import annotations

from typing import Literal, NamedTuple

Wish = Literal["save", "extend"]


class Wishes(NamedTuple):
    """What is asked of the next step; rank 0's count, all ranks hear of them in the vote."""

    save: bool = False  # before the step
    max_steps: int = 0  # where the run should end; 0 for where it would
