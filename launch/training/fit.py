"""
What fits a machine without GPUs, and what a step will take there, said before it is started.

    micro_batch_size, why = fit_cpu(flags, shape, machine)
    seconds = step_seconds(shape, tokens_per_step)

Estimates, not measurements: good enough to tell a minute from an hour, and eight gigabytes from
thirty. The machine's speed is measured for a fraction of a second with a matrix product.
"""

from __future__ import annotations

import time
from typing import NamedTuple

import numpy as np

from instruct_core.config import ModelConfig
from instruct_core.errors import ConfigError
from instruct_core.recipe import MICRO_BATCH_SIZE
from launch.cluster.machine import Machine
from launch.console.lines import counted
from launch.flags.finetune import Finetune

MATRIX_SIZE = 1536
# Training reaches about half the speed of a bare matrix product on a CPU: measured with
# bench/train_step.py, 124M parameters, 2 cores of an AMD EPYC.
CPU_EFFICIENCY = 0.55
BYTES_PER_PARAMETER = 16  # weight, gradient (which lies in DDP's bucket), two moments, 4 bytes each
SAVED_BYTES_PER_PARAMETER = 12  # weight and two moments
ACTIVATIONS_PER_LAYER = 24  # numbers of the model's width that a token keeps for the backward
SLICE_TOKENS = 512  # of the loss, see instruct_core/train/loss.py
PROCESS_BYTES = 700 << 20  # Python and torch


def cpu_flops() -> float:
    """Return floating-point operations per second of all cores in a float32 matrix product."""
    a = np.ones((MATRIX_SIZE, MATRIX_SIZE), np.float32)
    best = float("inf")
    for _ in range(3):
        started_at = time.perf_counter()
        a @ a
        best = min(best, time.perf_counter() - started_at)
    return 2 * MATRIX_SIZE**3 / best


def step_seconds(shape: ModelConfig, tokens_per_step: int) -> float:
    """Return about how long all cores of this machine take for one step."""
    weights = shape.num_parameters - shape.max_seq_len * shape.width
    return 6 * weights * tokens_per_step / (CPU_EFFICIENCY * cpu_flops())


def rank_bytes(shape: ModelConfig, micro_tokens: int, staged_share: float) -> int:
    """
    Return about how much memory one CPU rank needs at its peak, in float32.

    Args:
        shape: Of the model.
        micro_tokens: Tokens of a forward.
        staged_share: Of the state that the rank copies for an asynchronous save, 0..1.
    """
    head = shape.vocab_size * shape.width
    activations = micro_tokens * shape.num_layers * shape.width * ACTIVATIONS_PER_LAYER
    logits = 4 * min(micro_tokens, SLICE_TOKENS) * shape.vocab_size
    numbers = 2 * head + activations + logits
    per_parameter = BYTES_PER_PARAMETER + SAVED_BYTES_PER_PARAMETER * staged_share
    return PROCESS_BYTES + int(per_parameter * shape.num_parameters) + 4 * numbers


class Fit(NamedTuple):
    """How a run's micro-batches fit CPU ranks."""

    micro_batch_size: int
    why: str  # "" where it is what was typed, or the recipe's own


def fit_cpu(flags: Finetune, shape: ModelConfig, machine: Machine) -> Fit:
    """
    Return the micro-batch size for CPU ranks: the one that was typed, or the largest that fits.

    Raises:
        ConfigError: Not even one sequence fits, or what was typed does not; names what would.
    """
    recipe, free, num_ranks = flags.recipe, machine.memory_bytes, flags.nodes * flags.gpus
    staged = 1 / num_ranks if recipe.async_save else 0.0

    def needed(micro_batch_size: int) -> int:
        return flags.gpus * rank_bytes(shape, micro_batch_size * recipe.seq_len, staged)

    fitting = [
        size
        for size in (MICRO_BATCH_SIZE, 4, 2, 1)
        if needed(size) < free and recipe.tokens_per_step % (num_ranks * size * recipe.seq_len) == 0
    ]
    chosen = recipe.micro_batch_size or (fitting[0] if fitting else 1)
    need = needed(chosen)
    if need > free:
        change = f"--micro-batch-size {fitting[0]}" if fitting else machine.remedy
        raise ConfigError(
            f"{counted(flags.gpus, 'CPU rank')} with --micro-batch-size {chosen} would need about "
            f"{need / 1e9:.0f} GB, and {free / 1e9:.0f} GB are free on {machine.name}. Use {change}."
        )
    if recipe.micro_batch_size is not None or chosen == MICRO_BATCH_SIZE:
        return Fit(chosen, "")
    return Fit(chosen, f"the largest that fits {machine.name} and the step")


def duration(seconds: float) -> str:
    """Return about how long something takes, as a person says it: 40 ms, 6 minutes, 3 days."""
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
