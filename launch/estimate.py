"""
What a step will take on a machine without GPUs, said before it is started.

    seconds = step_seconds(parameters, tokens_per_step)
    bytes = rank_bytes(shape, micro_tokens)

Estimates, not measurements: good enough to tell a minute from an hour, and eight gigabytes from
thirty. The machine's speed is measured for a fraction of a second with a matrix product.
"""

from __future__ import annotations

import time

import numpy as np

from instruct_core.config import ModelConfig

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
