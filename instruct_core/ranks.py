"""
What all ranks agree on, one small exchange at a time.

    if any_rank(stop.noted): ...
    total, = sum_over_ranks([loss])

Everything here travels over the CPU backend (gloo), also on GPU machines: a vote must not wait
for the GPU's queue. Without a process group there is one rank, and nothing is exchanged.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def rank() -> int:
    """Return this process's rank, 0-based."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Return the number of ranks."""
    return dist.get_world_size() if dist.is_initialized() else 1


def sum_over_ranks(numbers: Sequence[float]) -> list[float]:
    """Return the sums over all ranks, the same on each; in float64, so counts stay exact."""
    if not dist.is_initialized():
        return [float(number) for number in numbers]
    sums = torch.tensor(numbers, dtype=torch.float64)
    dist.all_reduce(sums)
    return [float(value) for value in sums.tolist()]


def any_rank(flag: bool) -> bool:
    """Return True on every rank if the flag is set on at least one."""
    return sum_over_ranks([float(flag)])[0] > 0


def side_group() -> dist.ProcessGroup | None:
    """Return a group of all ranks for another thread: exchanges of one group keep an order."""
    return dist.new_group(backend="gloo") if dist.is_initialized() else None


def gather_from_ranks(value: Any, group: dist.ProcessGroup | None = None) -> list[Any]:
    """Return the small values of all ranks, in rank order, on every rank."""
    if not dist.is_initialized():
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value, group)
    return values


def broadcast(tensor: Tensor, source: int) -> None:
    """Fill a CPU tensor on all ranks with that of rank ``source``."""
    if dist.is_initialized():
        dist.broadcast(tensor, source)


def barrier() -> None:
    """Wait until every rank is here."""
    any_rank(False)
