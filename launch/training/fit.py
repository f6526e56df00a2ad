"""
What a rank needs of a machine, and what a step will take on one without GPUs: said before a run starts.

    rank_bytes(shape, micro_tokens=8192, staged_share=0.5), gpu_bytes(shape, 8192, "bf16")
    seconds = step_seconds(shape, tokens_per_step)

Estimates, not measurements: good enough to tell a minute from an hour, and eight gigabytes from
thirty. The machine's speed is measured for a fraction of a second with a matrix product.
"""

from __future__ import annotations

import functools
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
# Python and torch are 0.2 GB of a rank's own and 0.1 GB that ranks share (PSS of two on a CPU). The rest
# is for memory that is kept when it is freed: `tiny`, 8 x 256 tokens in fp32, peaks at 1.4 GB, and at 0.8
# where it is not.
PROCESS_BYTES = 700 << 20
# Of one GPU, from the table of bench/gpu.py in docs/performance.md: so much of a token is kept for the
# backward, and the context and the slices of the loss take the rest.
GPU_BYTES_PER_NUMBER = {"bf16": 37 / 24, "fp32": 74 / 24}
GPU_BYTES = 1_800_000_000


@functools.cache
def cpu_flops() -> float:
    """Return floating-point operations per second of all cores in a float32 matrix product."""
    a = np.ones((MATRIX_SIZE, MATRIX_SIZE), np.float32)
    best = float("inf")
    for _ in range(3):
        started_at = time.perf_counter()
        a @ a
        best = min(best, time.perf_counter() - started_at)
    return 2 * MATRIX_SIZE**3 / best


def step_seconds(shape: Shape, tokens_per_step: int, is_frozen: bool = False) -> float:
    """Return about how long all cores of this machine take for one step."""
    flops = (4 if is_frozen else 6) * shape.product_weights * tokens_per_step
    return flops / (CPU_EFFICIENCY * cpu_flops())


def state_bytes(num_parameters: int, adapters: int, staged_share: float, frozen: int = 4) -> int:
    """
    Return how much memory weights, gradients, moments and the copies of a save take.

    Args:
        num_parameters: Of the model.
        adapters: Numbers of its adapters, which alone are trained; 0 if all weights are.
        staged_share: Of the state that is copied for a save, 0..1.
        frozen: Bytes of a weight that is not trained.
    """
    trained = adapters or num_parameters
    still = frozen * num_parameters if adapters else 0
    return still + int((BYTES_PER_PARAMETER + SAVED_BYTES_PER_PARAMETER * staged_share) * trained)


def rank_bytes(shape: Shape, micro_tokens: int, staged_share: float, adapters: int = 0) -> int:
    """
    Return about how much memory one CPU rank needs at its peak, in float32.

    Args:
        shape: Of the model.
        micro_tokens: Tokens of a forward.
        staged_share: Of the state that the rank copies for an asynchronous save, 0..1.
        adapters: See `state_bytes`.
    """
    head = shape.vocab_size * shape.width
    activations = micro_tokens * shape.kept_numbers
    logits = 4 * min(micro_tokens, SLICE_TOKENS) * shape.vocab_size
    numbers = 2 * head + activations + logits
    state = state_bytes(shape.num_parameters, adapters, staged_share)
    return PROCESS_BYTES + state + 4 * numbers


def gpu_bytes(shape: Shape, micro_tokens: int, precision: str, adapters: int = 0) -> int:
    """
    Return about how much memory of its GPU a rank needs at its peak.

    Args:
        shape: Of the model.
        micro_tokens: Tokens of a forward.
        precision: "bf16" or "fp32", of matrix products, and of weights that are not trained.
        adapters: See `state_bytes`.
    """
    kept = GPU_BYTES_PER_NUMBER[precision] * micro_tokens * shape.kept_numbers
    frozen = 2 if precision == "bf16" else 4
    return GPU_BYTES + state_bytes(shape.num_parameters, adapters, 0.0, frozen) + int(kept)


def duration(seconds: float) -> str:
    """Return about how long something takes, as a person says it: 40 ms, 6 minutes, 3 days."""
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
