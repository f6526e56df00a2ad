"""
The gradients of one step: of a rank's micro-batches in turn, then of all ranks.

    gradients = Gradients(core, optimizer, config, setup, loaded)
    loss_sum = gradients.add_up(micro_batches, scale, watch, busy_seconds)
    if loss_sum is None: ...         # given up, and all is as before
    norm = gradients.clip()
    gradients.update(norm)           # the optimizer's step; they are forgotten
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from instruct_core import ranks
from instruct_core.checkpoints.loader import Loaded
from instruct_core.checkpoints.manifest import Scale
from instruct_core.config import TrainConfig
from instruct_core.data.batches import MicroBatch
from instruct_core.model.halves import HALVES
from instruct_core.train.compiler import data_parallel, settle_buckets
from instruct_core.train.loss import WithLoss, on_device
from instruct_core.train.optimizer import FusedAdamW
from instruct_core.train.pace import Stopwatch
from instruct_core.train.precision import LossScale
from instruct_core.train.progress import Setup
from instruct_core.train.rng import restore_rng, rng_state
from instruct_core.train.sharding import meet

# A warned step that would take longer than this is given up; the run goes on from the one before.
STOP_PATIENCE_SECONDS = 10.0


class Gradients:
    """
    What one rank does for them.

    Args:
        core: The model and its loss.
        optimizer: Of its weights.
        config: The recipe.
        setup: Of this rank.
        loaded: The checkpoint to go on from, or None.
    """

    def __init__(
        self,
        core: WithLoss,
        optimizer: FusedAdamW,
        config: TrainConfig,
        setup: Setup,
        loaded: Loaded | None = None,
    ) -> None:
        self._core, self._optimizer = core, optimizer
        self._device, self._stop, self._clip = setup.device, setup.stop, config.clip
        self._half = HALVES.get(config.precision)
        self._scale: LossScale | None = None
        if config.precision == "fp16":
            kept = None if loaded is None else loaded.manifest.loss_scale
            self._scale = LossScale(setup.device, kept)
        self._parallel: DistributedDataParallel | None = None
        in_parts = config.is_in_parts(ranks.world_size())  # then they meet in every layer
        if ranks.world_size() > 1 and not in_parts:
            self._parallel = data_parallel(core, setup.device, config.compile)
            with self.autocast():  # a frozen base may lie there in halves
                settle_buckets(self._parallel, setup.device)
            self.clear()
        if in_parts:
            with self.autocast():
                meet(core, setup.device)

    def add_up(
        self, batches: Sequence[MicroBatch], scale: float, watch: Stopwatch, busy_seconds: float
    ) -> Tensor | None:
        """
        Add up a step's gradients; return the sum of its loss, unscaled.

        Args:
            batches: Of this rank, as many as others have; one before the last may be empty.
            scale: Of the loss.
            watch: Stopped when this rank begins to wait for others.
            busy_seconds: How long a rank is busy in a step, as far as all ranks know; 0 if they do not.

        Returns:
            None on all ranks if one was warned and the rest would take too long: then all is as before,
            random generators included.
        """
        began = time.monotonic()
        before = rng_state() if len(batches) > 1 else {}
        loss_sum = torch.zeros((), device=self._device)
        factor = None if self._scale is None else scale * self._scale.value
        # The last backward takes about two forwards, however little comes before: this step is not long.
        is_short = 0 < 3 * busy_seconds <= STOP_PATIENCE_SECONDS
        for index, batch in enumerate(batches):
            seconds = time.monotonic() - began
            if index and not is_short and self._gives_up(batches, index, seconds):
                self.clear()
                restore_rng(before)
                return None
            if not len(batch.tokens):  # never the last, in which the ranks meet
                continue
            with self._sync_only_if(index == len(batches) - 1):
                with self.autocast():
                    loss = (self._parallel or self._core)(*on_device(batch, self._device), factor)
                watch.stop()  # the last of the step counts: its backward waits for others
                (loss * (scale if factor is None else factor)).backward()
            loss_sum += loss.detach()
        return loss_sum

    def _gives_up(self, batches: Sequence[MicroBatch], made: int, seconds: float) -> bool:
        """Return on all ranks whether a warned step is given up after so many micro-batches."""
        sizes = [len(batch.tokens) for batch in batches]
        mine = [float(self._stop()), seconds, sum(sizes[:made])]
        stops, seconds_of_all, sequences_of_all = ranks.sum_over_ranks(mine)
        remaining = seconds_of_all / sequences_of_all * sum(sizes[made:])
        return stops > 0 and remaining > STOP_PATIENCE_SECONDS

    def clip(self) -> Tensor:
        """Make them no longer than the recipe allows; return their norm before, on the device. ()"""
        if self._scale is not None:
            parameters = self._core.parameters()
            self._scale.take_off(p.grad for p in parameters if p.grad is not None)
        norm = torch.nn.utils.clip_grad_norm_(self._core.parameters(), self._clip)
        return ranks.whole(norm)

    def update(self, norm: Tensor) -> None:
        """
        Have the optimizer make its step with them, and forget them.

        Args:
            norm: As `clip` returns it. The device itself leaves out a step where it is not finite: that
                must not be made, nor waited for.
        """
        left_out = norm.isfinite().logical_not().float()
        self._optimizer.step(left_out)
        self.clear()
        if self._scale is not None:
            self._scale.note(left_out)

    def clear(self) -> None:
        """Forget them."""
        # Under DDP they stay where they are, in its buckets: fresh ones would be a second copy.
        self._optimizer.zero_grad(set_to_none=self._parallel is None)

    @property
    def scale_on_device(self) -> list[Tensor]:
        """What the loss of the next step is multiplied with, in float16 alone, on the device. [()]"""
        return [] if self._scale is None else [self._scale.value]

    @property
    def scale(self) -> Scale | None:
        """Of the loss, for a checkpoint; waits for the device."""
        return None if self._scale is None else self._scale.state

    def autocast(self) -> AbstractContextManager[None]:
        """Return a context with the precision of the run's products."""
        return torch.autocast(self._device.type, self._half, enabled=self._half is not None)

    def _sync_only_if(self, last: bool) -> AbstractContextManager[None]:
        if last or self._parallel is None:
            return nullcontext()
        return self._parallel.no_sync()
