"""
What a rank needs of a machine, and what a step will take on one without GPUs: said before a run starts.

    rank_bytes(shape, config, num_ranks=2), gpu_bytes(shape, 8192, "bf16")
    seconds = step_seconds(shape, tokens_per_step)

Estimates, not measurements: good enough to tell a minute from an hour, and eight gigabytes from
thirty. The machine's speed is measured for a fraction of a second with a matrix product.
"""

from __future__ import annotations

import functools
import time

import numpy as np

from instruct_core.config import TrainConfig
from instruct_core.shape import Shape

MATRIX_SIZE = 1536
# Training reaches about half the speed of a bare matrix product on a CPU: measured with
# bench/train_step.py, 124M parameters, 2 cores of an AMD EPYC.
CPU_EFFICIENCY = 0.55
BYTES_PER_PARAMETER = 16  # weight, gradient (which lies in DDP's bucket), two moments, 4 bytes each
SAVED_BYTES_PER_PARAMETER = 12  # weight and two moments
SLICE_TOKENS, GPU_SLICE_TOKENS = 512, 2048  # of the loss, see instruct_core/train/loss.py
# Measured with bench/rank_memory.py: what Python and torch take, of which ranks share 0.1 GB.
PROCESS_BYTES = 320_000_000
SLICES = 2  # logits of a slice and what is made of them, see instruct_core/train/softmax.py
HALF_SLICES = 2.5  # beside them where products are in 16 bits: memory that is taken anew each time
HEADS = 4  # gradients of head and embedding beside the state's own, and holes that they leave
PASSING = 16  # numbers of the model's width that a token has for a moment, in a backward
# Of a run with dropout or what is compiled, beside the mask that every layer keeps: holes of their size.
MASKS = 6
# With dropout torch has no kernel for a CPU that spares the weights of attention: so often a layer keeps
# them, and so often they are there for a moment. The whole is 1.01 to 1.21 of twelve peaks.
KEPT_WEIGHTS, PASSING_WEIGHTS = 4, 4
# Torch loads its compiler to recompute a block, or to put it together, whatever is compiled.
COMPILER_BYTES = 85_000_000
# Of a model in parts: the one that is computed, the next, and gradients of two that travel.
LAYERS_TOGETHER = 5
# Of one GPU, from the table of bench/gpu.py in docs/performance.md: so much of a token is kept for the
# backward. CUDA's own context and NCCL's buffers are not in that table, which is of what torch allocates.
GPU_BYTES_PER_NUMBER = {"bf16": 37 / 24, "fp16": 37 / 24, "fp32": 74 / 24}
GPU_PROCESS_BYTES = 600_000_000  # CUDA's context and kernels, see `gpu_bytes`
# By reading, for one vocabulary confirmed by that table: logits, their probabilities and two gradients
# in float32, and the slice's before in the precision of the products.
GPU_BYTES_PER_LOGIT = {"bf16": 18, "fp16": 18, "fp32": 20}


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


def step_seconds(
    shape: Shape, tokens_per_step: int, is_frozen: bool = False, recomputes: bool = False
) -> float:
    """Return about how long all cores of this machine take for one step."""
    flops = (4 if is_frozen else 6) * shape.product_weights
    if recomputes:  # a forward more of all but the head
        flops += 2 * _layer_weights(shape)
    return flops * tokens_per_step / (CPU_EFFICIENCY * cpu_flops())


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


def _layer_weights(shape: Shape) -> int:
    """Return about how many weights all layers have: those of products, but for the head's."""
    return shape.product_weights - shape.vocab_size * shape.width


def _kept_numbers(shape: Shape, recomputes: bool) -> tuple[int, int]:
    """
    Return how many numbers of a token are kept inside blocks for the backward, and at their entrances.

    With activation checkpointing these are of one block at a time, and what enters each of them.
    """
    if not recomputes:
        return shape.kept_numbers, 0
    return shape.kept_numbers // shape.num_layers, shape.num_layers * shape.width


def together_bytes(shape: Shape, adapters: int = 0, frozen: int = 4) -> int:
    """
    Return how much lies together of a model in parts: what is outside its layers, and some of these.

    Args:
        shape: Of the model.
        adapters: See `state_bytes`.
        frozen: See `state_bytes`.
    """
    layers = _layer_weights(shape)
    outside = shape.num_parameters - layers
    if adapters:  # nobody sums up gradients of what is frozen
        return 4 * outside + frozen * 2 * layers // shape.num_layers
    return 4 * (2 * outside + LAYERS_TOGETHER * layers // shape.num_layers)


def cast_bytes(shape: Shape, precision: str, adapters: int, recomputes: bool) -> int:
    """
    Return how much of a model in parts stays from forward to backward: its layers, cast for products.

    A layer that is let go of leaves them behind, unless it is recomputed, or lies there in halves.
    """
    if precision == "fp32" or adapters or recomputes:
        return 0
    return 2 * _layer_weights(shape)


def rank_bytes(shape: Shape, config: TrainConfig, num_ranks: int, adapters: int = 0) -> int:
    """
    Return about how much memory one CPU rank needs at its peak.

    Args:
        shape: Of the model.
        config: How it is trained: the size of a micro-batch, precision, dropout, what is recomputed, in
            parts or not, saved beside or not.
        num_ranks: That train it, on all nodes.
        adapters: See `state_bytes`.
    """
    seq_len, tokens = config.seq_len, config.micro_batch_size * config.seq_len
    heads = (0 if adapters else HEADS) * shape.vocab_size * shape.width
    # Row by row attention needs no mask, see instruct_core/train/loss.py.
    recomputes = config.activation_checkpointing == "on"
    layers = 2 if recomputes else shape.num_layers  # that have them: one is computed again
    looks = (layers + MASKS) * seq_len if config.dropout or config.compile else 0
    if config.dropout:
        weights = KEPT_WEIGHTS * layers + PASSING_WEIGHTS
        looks += weights * shape.num_heads * seq_len
    kept = sum(_kept_numbers(shape, recomputes))
    activations = tokens * (kept + PASSING * shape.width + looks)
    slices = SLICES + (HALF_SLICES if config.precision != "fp32" else 0)
    logits = slices * min(tokens, SLICE_TOKENS) * shape.vocab_size
    in_parts = config.is_in_parts(num_ranks)
    process = PROCESS_BYTES + (COMPILER_BYTES if recomputes or in_parts else 0)
    rest = process + int(4 * (heads + activations + logits))
    if not in_parts:
        staged = 1 / num_ranks if config.async_save else 0.0
        return rest + state_bytes(shape.num_parameters, adapters, staged)
    # A save puts tensors together for whoever writes them; a resume has all that was saved, and its part.
    state = state_bytes(shape.num_parameters, adapters, 1.0) // num_ranks
    state += together_bytes(shape, adapters)
    state += cast_bytes(shape, config.precision, adapters, recomputes)
    part = 12 * (adapters or shape.num_parameters) // num_ranks
    return max(rest + state, process + loaded_bytes(shape, adapters) + part)


def loaded_bytes(shape: Shape, adapters: int = 0) -> int:
    """Return how much memory of its node a step takes that a rank has read, with its base if any."""
    return 4 * shape.num_parameters + 8 * (adapters or shape.num_parameters)


def gpu_bytes(
    shape: Shape,
    micro_tokens: int,
    precision: str,
    adapters: int = 0,
    recomputes: bool = False,
    parts: int = 1,
) -> int:
    """
    Return about how much memory of its GPU a rank needs at its peak.

    What CUDA takes of a GPU for a process counts, which torch does not allocate and so does not tell
    (pytorch.org/docs: torch.cuda.memory_allocated). It depends on driver, GPU and kernels, and was not
    measured here: github.com/pytorch/pytorch/issues/34323 reads 0.78 GB of a small process.

    Args:
        shape: Of the model.
        micro_tokens: Tokens of a forward.
        precision: "bf16", "fp16" or "fp32", of matrix products, and of weights that are not trained.
        adapters: See `state_bytes`.
        recomputes: With activation checkpointing, by reading: what enters a block is float32, and beside
            a block's own there is as much for a moment as on a CPU. Without it that is in the table.
        parts: Ranks that share weights, gradients and moments; by reading.
    """
    inside, entrances = _kept_numbers(shape, recomputes)
    passing = PASSING * shape.width if recomputes else 0
    kept = micro_tokens * (GPU_BYTES_PER_NUMBER[precision] * inside + 4 * (entrances + passing))
    frozen = 4 if precision == "fp32" else 2
    logits = min(micro_tokens, GPU_SLICE_TOKENS) * shape.vocab_size
    slices = GPU_BYTES_PER_LOGIT[precision] * logits
    state = state_bytes(shape.num_parameters, adapters, 0.0, frozen) // parts
    if parts > 1:
        state += together_bytes(shape, adapters, frozen)
        state += cast_bytes(shape, precision, adapters, recomputes)
    return GPU_PROCESS_BYTES + state + int(kept) + slices


def gigabytes(more: int, less: int) -> tuple[str, str]:
    """Return how much memory two numbers of bytes are, as a person says it, and apart: 27 GB, 24 GB."""
    digits = next((d for d in range(3) if round(more / 1e9, d) != round(less / 1e9, d)), 3)
    return f"{more / 1e9:.{digits}f} GB", f"{less / 1e9:.{digits}f} GB"


def duration(seconds: float) -> str:
    """Return about how long something takes, as a person says it: 40 ms, 6 minutes, 3 days."""
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
