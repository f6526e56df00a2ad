"""
What every rank tries before an attempt loads anything: does its node compute, copy, talk and read?

    look_for_settings(store, node)      # raises BadNodeError, the same on all ranks, with the node's name
    try_out(device, node)               # so does this

It takes well under a second a rank, and all its results are known to the last bit: whole numbers, small
enough to be exact in every precision.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist

from instruct_core import ranks
from instruct_core.errors import MissingError
from instruct_core.storage.plain_errors import is_refusal, may_pass
from instruct_core.storage.store import Store
from jobs.job_folder import FAILED_CHECK, BadNodeError, describe_error

logger = logging.getLogger(__name__)

SIZE = {"cuda": 1024, "cpu": 128}  # of the matrices
COPIED_BYTES = 1 << 20


def look_for_settings(store: Store, node: str) -> None:
    """
    Look whether all ranks see the run; called by all, before anything is written there.

    Args:
        store: Of the run: its settings are there.
        node: Name of this rank's node, as Slurm excludes it.

    Raises:
        BadNodeError: A rank's node does not see it, and another's does; names the first.
        MissingError: No rank sees it: its folder was renamed, or the only node lacks the disk.
        OSError: The store does not answer.
    """
    problem = _first_problem(
        {"its settings are empty": lambda: bool(store.read("run.json", at_most=1))}
    )
    found = ranks.gather_from_ranks((problem, node))
    if all(problem for problem, _ in found):
        raise MissingError(
            f"Run {store.url} is not there: no rank reads its settings ({problem}). If its folder was "
            "moved or renamed, move it back."
        )
    _refuse_bad(found)


def try_out(device: torch.device, node: str) -> None:
    """
    Try what a rank needs; called by all at the same time.

    Args:
        device: This rank's.
        node: Name of this rank's node, as Slurm excludes it.

    Raises:
        BadNodeError: A rank's node failed; names the first.
    """
    began_at = time.monotonic()
    problem = _first_problem(
        {
            "a product is wrong": lambda: _multiplies(device),
            "a copy is wrong": lambda: _copies(device),
        }
    )
    found = ranks.gather_from_ranks((problem, node))
    if not any(problem for problem, _ in found):
        # Only then: whoever has failed above would not come to it.
        problem = _first_problem({"a sum over all ranks is wrong": lambda: _sums(device)})
        found = ranks.gather_from_ranks((problem, node))
    _refuse_bad(found)
    logger.info("The first check took %.2f s", time.monotonic() - began_at)


def _refuse_bad(found: Sequence[tuple[str, str]]) -> None:
    for rank, (problem, node) in enumerate(found):
        if problem:
            place = node or "this machine"
            raise BadNodeError(f"rank {rank} on {place} {FAILED_CHECK}: {problem}.", node)


def _first_problem(checks: dict[str, Callable[[], bool]]) -> str:
    for problem, check in checks.items():
        try:
            if not check():
                return problem
        except (RuntimeError, OSError) as error:
            if isinstance(error, OSError) and (may_pass(error) or is_refusal(error)):
                raise  # the store is away, or lets nobody in: no node's fault
            return describe_error(error).partition("\n")[0]
    return ""


def _multiplies(device: torch.device) -> bool:
    """Return whether a product of matrices is right to the last bit."""
    size = SIZE.get(device.type, SIZE["cpu"])
    numbers = torch.arange(size * size, dtype=torch.int64)
    left, right = (numbers % 7).view(size, size), (numbers % 5).view(size, size)
    product = (left.to(device, torch.float32) @ right.to(device, torch.float32)).cpu()
    # One wrong number anywhere changes the sum of its column, which whole numbers tell exactly.
    return torch.equal(product.long().sum(0), left.sum(0) @ right)


def _copies(device: torch.device) -> bool:
    """Return whether bytes come back from the device as they went."""
    pattern = torch.arange(COPIED_BYTES, dtype=torch.int64).mul(2654435761).to(torch.uint8)
    return torch.equal(pattern.to(device).clone().cpu(), pattern)


def _sums(device: torch.device) -> bool:
    """Return whether all ranks' numbers arrive, over the way that gradients take."""
    if not dist.is_initialized():
        return True
    numbers = torch.full((1024,), float(ranks.rank() + 1), device=device)
    dist.all_reduce(numbers)
    world_size = ranks.world_size()
    return bool((numbers == world_size * (world_size + 1) / 2).all().item())
