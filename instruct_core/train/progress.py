"""
What the trainer is given and reports, and what it reads next.

    samples = next_samples(progress, config, train, rank, world_size)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from instruct_core.checkpoints.manifest import Progress
from instruct_core.checkpoints.writer import Checkpoints
from instruct_core.config import TrainConfig
from instruct_core.data.batches import SampleReader
from instruct_core.data.shards import ShardSet
from instruct_core.errors import NonFiniteError
from instruct_core.events import Event
from instruct_core.model.family import Model
from instruct_core.train.wishes import Wish, Wishes

Outcome = Literal["finished", "stopped"]
MAX_NON_FINITE_IN_A_ROW = 10


def next_samples(
    progress: Progress, config: TrainConfig, train: SampleReader, rank: int, world_size: int
) -> list[NDArray[np.uint64]]:
    """
    Return one rank's share of the next step's samples, one array a micro-batch. [(at most B,)]

    All are filled but the first: what is left for it the ranks share evenly, and some may have none. So
    the last, in which they wait for each other, is everybody's.
    """
    rest, shape = _layout(config, world_size)
    positions = progress.samples_seen + np.arange(config.global_batch_size, dtype=np.uint64)
    samples = train.at(positions, config.seed)
    first = np.array_split(samples[:rest], world_size)[rank]
    return [first, *samples[rest:].reshape(shape)[:, rank]]


def _layout(config: TrainConfig, world_size: int) -> tuple[int, tuple[int, int, int]]:
    """Return how many samples all ranks take first, and the others as (micro-batches, ranks, B)."""
    shape = (config.grad_accum_steps(world_size) - 1, world_size, config.micro_batch_size)
    return config.global_batch_size - math.prod(shape), shape


def busy_shares(config: TrainConfig, world_size: int) -> list[int]:
    """
    Return how much each rank computes in a step before it would wait for the others.

    In forwards of a sequence, up to the end of its last one; a backward takes about two.
    """
    rest, (others, _, size) = _layout(config, world_size)
    firsts = [rest // world_size + (rank < rest % world_size) for rank in range(world_size)]
    return [3 * (first + others * size) - 2 * (size if others else first) for first in firsts]


def after_step(before: Progress, config: TrainConfig) -> Progress:
    """Count a step; whether it was finite is told by `noted`."""
    return replace(
        before,
        global_step=before.global_step + 1,
        samples_seen=before.samples_seen + config.global_batch_size,
        tokens_seen=before.tokens_seen + config.tokens_per_step,
    )


def noted(
    progress: Progress, step: int, finite: bool, config: TrainConfig, scale: float = 1.0
) -> Progress:
    """
    Count whether a step was made, or left out because its gradient was not finite.

    Args:
        progress: Where the run stands, at the step or after it.
        step: Which one it was.
        finite: What came of it.
        config: Of the run.
        scale: Of its loss; above 1 the next step has a smaller one.

    Raises:
        NonFiniteError: Ten in a row were left out, or more, and the scale cannot be smaller.
    """
    in_a_row = 0 if finite else progress.non_finite_in_a_row + 1
    if in_a_row >= MAX_NON_FINITE_IN_A_ROW and scale <= 1:
        raise NonFiniteError(
            f"Run {config.run} had {in_a_row} steps in a row without a finite "
            f"gradient, up to step {step}. Lower --learning-rate, or look for broken "
            f"rows{_more_range(config)}; the last checkpoint is from before."
        )
    skipped = progress.skipped_steps + (not finite)
    return replace(progress, skipped_steps=skipped, non_finite_in_a_row=in_a_row)


def _more_range(config: TrainConfig) -> str:
    other = ", or begin another --run in bf16 or fp32, which have more range than fp16"
    return other if config.precision == "fp16" else ""


def check_end(progress: Progress, config: TrainConfig) -> None:
    """
    Refuse to call a run finished whose weights are broken.

    Args:
        progress: At the last step, after its evaluation.
        config: Of the run.

    Raises:
        NonFiniteError: The last step's validation loss is not finite.
    """
    loss, step = progress.val_loss, progress.global_step
    if progress.evaluated_at_step == step and loss is not None and not math.isfinite(loss):
        raise NonFiniteError(
            f"Run {config.run} came to its last step, {step}, with a validation loss of {loss}: its "
            "weights are broken, and this step is not saved. Lower --learning-rate, or look for "
            f"broken rows{_more_range(config)}; begin another --run from a step before: --init "
            "run:NAME@STEP."
        )


class StepReport(NamedTuple):
    """What one step did, for logs and curves."""

    progress: Progress
    values: dict[str, float]  # TensorBoard's names


class SampleAnswer(NamedTuple):
    """A row of the validation split, and what the model says in place of its response."""

    prompt: str
    reference: str
    answer: str


@dataclass(frozen=True)
class Setup:
    """What the trainer is given by whoever runs it, on every rank."""

    model: Model
    device: torch.device
    train: SampleReader
    val: SampleReader
    val_rows: ShardSet
    checkpoints: Checkpoints
    facts: dict[str, Any]  # further fields of every manifest
    config_file: Mapping[str, Any]  # content of the model's config.json, or of the adapters'
    stop: Callable[[], bool]
    working: Callable[[str], None]  # what begins: "first step", "step", "evaluation", "save"
    on_event: Callable[[Event], None]  # on rank 0
    on_step: Callable[[StepReport], None]  # on rank 0
    on_samples: Callable[[int, list[SampleAnswer]], None]  # (step, answers), on rank 0
    on_read: Callable[[int, list[int]], None]  # (step, sample numbers), on every rank
    moments: Mapping[str, Tensor] = field(default_factory=dict)  # to begin with, if any
    wishes: Callable[[], Wishes] = Wishes  # what people ask; nothing on all ranks but rank 0
    on_wish: Callable[[Wish, int], None] = lambda wish, step: None  # what was done of it, and when
