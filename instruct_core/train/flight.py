"""
A step that a device still computes, and what has come of it once it has landed.

    flying = Step(progress, values, Readings(loss_sum, norm), watch, started_at)
    landed = flying.land()           # waits for this step, and for nothing that was queued after it

A GPU computes while the host reads, votes and reports; whoever asks it for a number waits until its queue
is empty, and then it stands idle until there is something in it again. So numbers travel by
themselves, and are read one step later, when they are there. On a CPU a step has ended when it was
told, and may take minutes: nothing is read late.
"""

from __future__ import annotations

import math
import time
from typing import NamedTuple

import torch
from torch import Tensor

from instruct_core.checkpoints.manifest import Progress
from instruct_core.train.pace import Stopwatch

STEPS_IN_FLIGHT = {"cpu": 0, "cuda": 1}  # that go on while the next one is prepared


class Readings:
    """Numbers of a step on their way to the host; its device is not waited for."""

    def __init__(self, *numbers: Tensor) -> None:
        # Into pinned memory, where they come from a GPU.
        self._numbers = torch.stack(numbers).to("cpu", non_blocking=True)
        self._arrived: torch.cuda.Event | None = None
        if numbers[0].is_cuda:
            self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._arrived.record()

    def read(self) -> list[float]:
        """Wait for the numbers, and return them."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return [number.item() for number in self._numbers]


class Landed(NamedTuple):
    """A step that has ended."""

    progress: Progress  # after it, but for whether it was finite
    values: dict[str, float]  # TensorBoard's names
    loss_sum: float  # of this rank's targets
    busy_seconds: float  # of this rank
    started_at: float  # time.monotonic()

    @property
    def was_made(self) -> bool:
        """False if its gradient was not finite."""
        return math.isfinite(self.values["train/grad_norm"])


class Step(NamedTuple):
    """A step whose update is queued."""

    progress: Progress
    values: dict[str, float]
    readings: Readings  # of its loss's sum, its gradient's norm and, in float16, its loss's scale
    watch: Stopwatch
    started_at: float

    def land(self, after: float) -> Landed:
        """
        Wait until it has ended, and return what came of it.

        Args:
            after: When the step before it had: until then the device was busy with that one.
        """
        loss_sum, grad_norm, *scale = self.readings.read()
        started_at = max(self.started_at, after)
        seconds = time.monotonic() - started_at
        values = {"train/grad_norm": grad_norm, "time/compute_seconds": seconds}
        if scale:
            values["train/loss_scale"] = scale[0]
        return Landed(self.progress, self.values | values, loss_sum, self.watch.seconds, started_at)
