"""
What float16 needs beside: a loss that is scaled.

    scale = LossScale(device, manifest.loss_scale)
    (loss * scale.value).backward(); scale.take_off(gradients)
    scale.note(left_out)             # 1 where the step was left out: half of it from now on

bfloat16 has the range of float32. float16 has numbers from 6e-8 to 65,504, and many a gradient is less.
So the loss is multiplied with a power of two, as large as it may be: a step whose gradient overflows is
left out, and halves it; many steps in a row that do not double it. It is a part of the run's state, kept
with every checkpoint, and changes on the device, which nobody waits for.

Source: Micikevicius et al. 2018, Mixed Precision Training (arXiv 1710.03740); its numbers are those of
torch.amp.GradScaler.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from instruct_core.checkpoints.manifest import LARGEST_SCALE, Scale
from instruct_core.ranks import own

FIRST_SCALE = 65536.0
STEPS_TO_DOUBLE = 2000


class LossScale:
    """
    What a loss is multiplied with before its backward.

    Args:
        device: Of the model.
        state: As a checkpoint has it; None begins.

    Attributes:
        value: It, in float32. ()
    """

    def __init__(self, device: torch.device, state: Scale | None) -> None:
        state = state or Scale(FIRST_SCALE, 0)
        self.value = torch.tensor(state.value, device=device)
        self._steps = torch.tensor(float(state.steps), device=device)  # made since it last changed

    @property
    def state(self) -> Scale:
        """For a checkpoint; waits for the device."""
        return Scale(self.value.item(), int(self._steps.item()))

    def take_off(self, gradients: Iterable[Tensor]) -> None:
        """Divide gradients by it, in place."""
        torch._foreach_mul_([own(each) for each in gradients], self.value.reciprocal())

    def note(self, left_out: Tensor) -> None:
        """
        Change it for the next step.

        Args:
            left_out: 1 where the gradient was not finite, else 0. (), float32
        """
        steps = (self._steps + 1) * (1 - left_out)
        doubles = (steps >= STEPS_TO_DOUBLE).float()
        self.value.mul_(1 + doubles - left_out / 2).clamp_(1.0, LARGEST_SCALE)
        self._steps.copy_(steps * (1 - doubles))
