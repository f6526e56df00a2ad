"""
The learning rate of each step: linear warmup, then a cosine down to a floor.

A pure function of the step, so a resumed run needs no scheduler state. Source: Loshchilov &
Hutter 2017, arXiv 1608.03983, without restarts.
"""

from __future__ import annotations

import math

from instruct_core.config import TrainConfig


def learning_rate_at(step: int, config: TrainConfig) -> float:
    """Return the learning rate of the update that leads from ``step`` to ``step + 1``."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    if step >= config.decay_steps:
        return config.min_learning_rate
    progress = (step - config.warmup_steps) / max(1, config.decay_steps - config.warmup_steps)
    share = 0.5 * (1.0 + math.cos(math.pi * progress))
    return config.min_learning_rate + share * (config.learning_rate - config.min_learning_rate)
