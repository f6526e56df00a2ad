"""
How the next token is chosen. No torch: launchers read this.

    Sampling(temperature=0.8, top_p=0.95).check()

The fields are flags of launch/chat.py and launch/generate.py; the text below each is its help.

Sources: Fan et al. 2018, arXiv 1805.04833 (top-k); Holtzman et al. 2020, arXiv 1904.09751 (top-p);
Keskar et al. 2019, arXiv 1909.05858 (repetition penalty).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from instruct_core.errors import ConfigError


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen; by default the likeliest."""

    temperature: float = 0.0
    """0 takes the likeliest word, 1 draws as the model sees it, more draws more freely."""
    top_k: int = 0
    """Draw among so many likeliest tokens only (0: among all)."""
    top_p: float = 1.0
    """Draw among the likeliest tokens that together have this probability, 0..1."""
    repetition_penalty: float = 1.0
    """Above 1, what was said before becomes less likely."""
    seed: int = 0
    """Of the draws; the same seed gives the same answer."""

    def check(self) -> None:
        """
        Say which value makes no sense.

        Raises:
            ConfigError: The first that does not; named as a flag.
        """
        rules = {
            "temperature": ("at least 0", 0 <= self.temperature < math.inf),
            "top_k": ("at least 0", self.top_k >= 0),
            "top_p": ("more than 0 and at most 1", 0 < self.top_p <= 1),
            "repetition_penalty": ("more than 0", 0 < self.repetition_penalty < math.inf),
            "seed": ("at least 0 and less than 2**63", 0 <= self.seed < 2**63),
        }
        for name, (rule, holds) in rules.items():
            if not holds:
                flag = name.replace("_", "-")
                raise ConfigError(f"--{flag} must be {rule}, got {getattr(self, name)}.")
