"""
What a GPU that has run out of memory means to a person: another setting, and no bad node.

    with out_of_gpu_memory_is_a_setting(config, device):
        trainer.run()
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

# cuBLAS and the driver have words of their own, in a RuntimeError.
SAYS = re.compile(r"CUDA error: out of memory|(CUBLAS|CUDNN|CUFFT)_STATUS_ALLOC_FAILED|CUDA out of")


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
    except RuntimeError as error:  # torch.OutOfMemoryError is one
        if not isinstance(error, torch.OutOfMemoryError) and not SAYS.search(str(error)):
            raise
        said = str(error).strip().split("\n")[0].split(". ")[0]
        raise ConfigError(
            f"{device} has too little memory for --micro-batch-size {config.micro_batch_size} of "
            f"{config.seq_len} tokens: {said}. {_advice(config, ranks.world_size(), before_a_step)}"
        ) from error


def _advice(config: TrainConfig, world_size: int, before_a_step: bool) -> str:
    """Return what to type instead: half of what a rank has at once, or what spares memory."""
    same = "Give the same command with"
    goes_on = "the run goes on from its newest checkpoint."
    share = f"{same} --shard full, which shares the model out over the GPUs: {goes_on}"
    may_share = config.shard != "full" and config.may_be_in_parts(world_size)
    if before_a_step and may_share:
        return share
    most = math.ceil(config.global_batch_size / world_size)
    if half := min(config.micro_batch_size, most) // 2:
        return f"{same} --micro-batch-size {half}: {goes_on}"
    if config.activation_checkpointing != "on":
        return f"{same} --activation-checkpointing on, which takes longer: {goes_on}"
    if may_share:
        return share
    return (
        "No smaller one is left: use GPUs with more memory, or begin another --run with a smaller "
        "--seq-len or --model."
    )
