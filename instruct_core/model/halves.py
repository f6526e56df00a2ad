"""
The types of 16 bits, by the names that flags have for them, and whether a model's weights fit.

    check_range(weights, "--weights", "model", "Leave --weights out.")     # of float16

bfloat16 has the range of float32; float16 ends at 65,504.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from instruct_core.errors import ConfigError

HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}
MOST_IN_FLOAT16 = torch.finfo(torch.float16).max


def check_range(weights: Mapping[str, Tensor], flag: str, owner: str, remedy: str) -> None:
    """
    Raise ConfigError where a weight is too large for float16.

    Args:
        weights: By the names that a person may know.
        flag: That asked for float16.
        owner: Whose weights they are, in a word.
        remedy: What to do instead.
    """
    for name, weight in weights.items():
        if (largest := float(weight.detach().abs().max())) > MOST_IN_FLOAT16:
            raise ConfigError(
                f"{flag} fp16 has numbers up to {MOST_IN_FLOAT16:,.0f}, and {name} of this {owner} has "
                f"{largest:,.0f}. {remedy}"
            )
