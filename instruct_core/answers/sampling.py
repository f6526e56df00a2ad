"""
How the next token is chosen. No torch: launchers read this.

    Sampling(temperature=0.8, top_p=0.95).check()

The fields are flags of launch/chat.py and launch/generate.py; the text below each is its help.

Sources: Fan et al. 2018, arXiv 1805.04833 (top-k); Holtzman et al. 2020, arXiv 1904.09751 (top-p);
Keskar et al. 2019, arXiv 1909.05858 (repetition penalty).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from instruct_core.recipe import A_SEED, AT_LEAST_ZERO, MORE_THAN_ZERO, Rule, check_rules

A_TEMPERATURE = Rule("at least 0", lambda value: 0 <= value < math.inf)
A_PROBABILITY = Rule("more than 0 and at most 1", lambda value: 0 < value <= 1)


def _setting(default: Any, rule: Rule) -> Any:
    return field(default=default, metadata={"rule": rule})


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen; by default the likeliest."""

    temperature: float = _setting(0.0, A_TEMPERATURE)
    """0 takes the likeliest word, 1 draws as the model sees it, more draws more freely."""
    top_k: int = _setting(0, AT_LEAST_ZERO)
    """Draw among so many likeliest tokens only (0: among all)."""
    top_p: float = _setting(1.0, A_PROBABILITY)
    """Draw among the likeliest tokens that together have this probability, 0..1."""
    repetition_penalty: float = _setting(1.0, MORE_THAN_ZERO)
    """Above 1, what was said before becomes less likely."""
    seed: int = _setting(0, A_SEED)
    """Of the draws; the same seed gives the same answer."""

    @property
    def drawing(self) -> int:
        """
        Which way of choosing gives these answers: they may differ from one way to the next.

        The first counted what pads a prompt as said, and drew from top-p and top-k by likelihood.
        """
        is_cut = self.temperature > 0 and (self.top_k > 0 or self.top_p < 1)
        return 2 if is_cut or self.repetition_penalty != 1 else 1

    def check(self) -> None:
        """Refuse a value that makes no sense; raises ConfigError, which names it as a flag."""
        check_rules(self)
