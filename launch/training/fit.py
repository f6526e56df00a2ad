"""
What a rank needs of a machine, and what a step will take on one without GPUs: said before a run starts.

    rank_bytes(shape, micro_tokens=8192, staged_share=0.5), gpu_bytes(shape, 8192, "bf16")
    seconds = step_seconds(shape, tokens_per_step)

Estimates, not measurements: good enough to tell a minute from an hour, and eight gigabytes from
thirty. The machine's speed is measured for a fraction of a second with a matrix product.
"""

from __future__ import annotations

import time

import numpy as np

from instruct_core.shape import Shape

MATRIX_SIZE = 1536
# Training reaches about half the speed of a bare matrix product on a CPU: measured with
# bench/train_step.py, 124M parameters, 2 cores of an AMD EPYC.
CPU_EFFICIENCY = 0.55
BYTES_PER_PARAMETER = 16  # weight, gradient (which lies in DDP's bucket), two moments, 4 bytes each
SAVED_BYTES_PER_PARAMETER = 12  # weight and two moments
SLICE_TOKENS = 512  # of the loss, see instruct_core/train/loss.py
PROCESS_BYTES = 700 << 20  # Python and torch
# Of one GPU, from the table of bench/gpu.py in docs/performance.md: so much of a token is kept for the
# backward, and the context and the slices of the loss take the rest.
GPU_BYTES_PER_NUMBER = {"bf16": 37 / 24, "fp32": 74 / 24}
GPU_BYTES = 1_800_000_000


def cpu_flops() -> float:
    """Return floating-point operations per second of all cores in a float32 matrix product."""
    a = np.ones((MATRIX_SIZE, MATRIX_SIZE), np.float32)
    best = float("inf")
    for _ in range(3):
        started_at = time.perf_counter()
        a @ a
        best = min(best, time.perf_counter() - started_at)
    return 2 * MATRIX_SIZE**3 / best


def step_seconds(shape: Shape, tokens_per_step: int) -> float:
    """Return about how long all cores of this machine take for one step."""
    return 6 * shape.product_weights * tokens_per_step / (CPU_EFFICIENCY * cpu_flops())


def rank_bytes(shape: Shape, micro_tokens: int, staged_share: float) -> int:
    """
    Return about how much memory one CPU rank needs at its peak, in float32.

    Args:
        shape: Of the model.
        micro_tokens: Tokens of a forward.
        staged_share: Of the state that the rank copies for an asynchronous save, 0..1.
    """
    head = shape.vocab_size * shape.width
    activations = micro_tokens * shape.kept_numbers
    logits = 4 * min(micro_tokens, SLICE_TOKENS) * shape.vocab_size
    numbers = 2 * head + activations + logits
    per_parameter = BYTES_PER_PARAMETER + SAVED_BYTES_PER_PARAMETER * staged_share
    return PROCESS_BYTES + int(per_parameter * shape.num_parameters) + 4 * numbers


def gpu_bytes(shape: Shape, micro_tokens: int, precision: str) -> int:
    """
    Return about how much memory of its GPU a rank needs at its peak.

    Args:
        shape: Of the model.
        micro_tokens: Tokens of a forward.
        precision: "bf16" or "fp32", of matrix products.
    """
    kept = GPU_BYTES_PER_NUMBER[precision] * micro_tokens * shape.kept_numbers
    return GPU_BYTES + BYTES_PER_PARAMETER * shape.num_parameters + int(kept)


def duration(seconds: float) -> str:
    """Return about how long something takes, as a person says it: 40 ms, 6 minutes, 3 days."""
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
