"""
What a GPU that has run out of memory means to a person: another setting, and no bad node.

    with out_of_gpu_memory_is_a_setting(config, device):
        trainer.run()
    with gpu_holds("the model", advice_of_a_command("fp32")):
        model = load_model(place)
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from instruct_core import ranks
from instruct_core.config import TrainConfig
from instruct_core.errors import ConfigError
from instruct_core.recipe import Kept
from jobs.causes import GPU_IS_FULL

HALF = "--weights bf16 (fp16 on GPUs before Ampere), which halves the model"
SAYS = re.compile(f"CUDA out of|{GPU_IS_FULL}")  # in a RuntimeError


@contextmanager
def out_of_gpu_memory_is_a_setting(
    config: TrainConfig, device: torch.device, before_a_step: bool = False
) -> Iterator[None]:
    """
    Raise ConfigError, which is not tried again, where a GPU's memory does not suffice.

    Args:
        config: Of the run.
        device: Where it trains; the host's memory is the business of whoever kills us.
        before_a_step: Only the model and what belongs to it is there: a micro-batch has no part in it.
    """
    try:
        yield
    except RuntimeError as error:
        if not (said := _said(error)):
            raise
        what = f"--micro-batch-size {config.micro_batch_size} of {config.seq_len} tokens"
        raise ConfigError(
            f"{device} has too little memory for {'the model' if before_a_step else what}: {said}. "
            f"{_advice(config, ranks.world_size(), before_a_step)}"
        ) from error


@contextmanager
def gpu_holds(what: str, advice: str) -> Iterator[None]:
    """
    Raise ConfigError where the memory of the GPU that answers does not suffice.

    Args:
        what: It should hold.
        advice: What to do instead.
    """
    try:
        yield
    except RuntimeError as error:
        if not (said := _said(error)):
            raise
        raise ConfigError(f"The GPU has too little memory for {what}: {said}. {advice}") from error


def advice_of_a_command(kept: Kept) -> str:
    """Return what to do where a command's own GPU is too small for a model whose weights are kept so."""
    half = f"Give {HALF}, or use" if kept == "fp32" else "Use"
    return (
        f"{half} a GPU with more memory, or have the processor answer: CUDA_VISIBLE_DEVICES= before the "
        "command."
    )


def advice_of_a_task(kept: Kept, side_by_side: int = 1) -> str:
    """Return what to do where the GPU of a task is, which answers so many questions side by side."""
    ways = [f"--batch-size {side_by_side // 2}"] if side_by_side > 1 else []
    if kept == "fp32":
        ways.append(HALF)
    given = f"Give {' or '.join(ways)}, and another --out, or use" if ways else "Use"
    return f"{given} GPUs with more memory, or a machine or --partition without any."


def _said(error: RuntimeError) -> str:
    """Return what a GPU without memory says, or "" of anything else."""
    if not isinstance(error, torch.OutOfMemoryError) and not SAYS.search(str(error)):
        return ""
    lines = str(error).strip().split("\n")
    return next(filter(SAYS.search, lines), lines[0]).split(". ")[0]


def _advice(config: TrainConfig, world_size: int, before_a_step: bool) -> str:
    """Return what to type instead: half of what a rank has at once, or what spares memory."""
    same = "Give the same command with"
    goes_on = "the run goes on from its newest checkpoint."
    most = math.ceil(config.global_batch_size / world_size)
    if not before_a_step:
        if half := min(config.micro_batch_size, most) // 2:
            return f"{same} --micro-batch-size {half}: {goes_on}"
        if config.activation_checkpointing != "on":
            return f"{same} --activation-checkpointing on, which takes longer: {goes_on}"
    is_shared = config.is_in_parts(world_size)
    share = "--no-compile --shard full" if config.compile else "--shard full"
    if world_size > 1 and not is_shared:
        return f"{same} {share}, which shares the model out over the GPUs: {goes_on}"
    more = "more of them" if is_shared else f"more of them with {share}"
    end = f"use GPUs with more memory, or {more}, or begin another --run with a smaller"
    if before_a_step:
        return f"No micro-batch is to blame: {end} --model."
    return f"No smaller one is left: {end} --seq-len or --model."
