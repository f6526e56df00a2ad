"""
What all ranks agree on, one small exchange at a time.

    if any_rank(stop.noted): ...
    total, = sum_over_ranks([loss])

Everything here travels over the CPU backend (gloo), also on GPU machines: a vote must not wait
for the GPU's queue. Without a process group there is one rank, and nothing is exchanged.
"""

from __future__ import annotations

import ctypes
import json
from collections import deque
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

# Of every exchange. A job may be suspended for hours while a rank waits for its peers; whoever waits in
# vain is ended by the job's guard, which knows the difference.
TIMEOUT = timedelta(days=1)

# The latest exchanges, never freed. A thread of gloo lets go of an exchange some time after it has
# ended, and of its tensors if nobody else has it; for that it needs the interpreter, and where that
# is on its way out, the process aborts: a rank that has finished would count as crashed.
_latest: deque[Any] = deque(maxlen=16)
ctypes.pythonapi.Py_IncRef(ctypes.py_object(_latest))


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
    _wait(dist.all_reduce(sums, async_op=True))
    return [float(value) for value in sums.tolist()]


def any_rank(flag: bool) -> bool:
    """Return True on every rank if the flag is set on at least one."""
    return sum_over_ranks([float(flag)])[0] > 0


def side_group() -> dist.ProcessGroup | None:
    """Return a group of all ranks for another thread: exchanges of one group keep an order."""
    return dist.new_group(timeout=TIMEOUT, backend="gloo") if dist.is_initialized() else None


def gather_from_ranks(value: Any, group: dist.ProcessGroup | None = None) -> list[Any]:
    """
    Return the small values of all ranks, in rank order, on every rank.

    They travel as JSON, so a tuple comes as a list: whoever on the network passes for a rank can send
    wrong values, and no code, as the pickles of torch's all_gather_object are.

    Raises:
        TypeError: The value is not one that JSON has.
    """
    data = json.dumps(value)
    if not dist.is_initialized():
        return [json.loads(data)]
    mine = torch.frombuffer(bytearray(data.encode()), dtype=torch.uint8)
    lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(world_size())]
    _wait(dist.all_gather(lengths, torch.tensor([len(mine)]), group, async_op=True))
    longest = max(int(length) for length in lengths)
    parts = [torch.zeros(longest, dtype=torch.uint8) for _ in lengths]
    padded = torch.nn.functional.pad(mine, (0, longest - len(mine)))
    _wait(dist.all_gather(parts, padded, group, async_op=True))
    return [
        json.loads(part.numpy()[: int(length)].tobytes())
        for part, length in zip(parts, lengths, strict=True)
    ]


def value_of_rank_0(value: Any, group: dist.ProcessGroup | None = None) -> Any:
    """Return what rank 0 gave, as JSON has it; along a tree, so that it comes to each rank once."""
    data = bytearray(json.dumps(value).encode()) if rank() == 0 else bytearray()
    if not dist.is_initialized():
        return json.loads(data)
    length = torch.tensor([len(data)])
    _wait(dist.broadcast(length, 0, group, async_op=True))
    sent = torch.zeros(int(length), dtype=torch.uint8)
    if rank() == 0:
        sent = torch.frombuffer(data, dtype=torch.uint8)
    _wait(dist.broadcast(sent, 0, group, async_op=True))
    return json.loads(sent.numpy().tobytes())


def broadcast(tensor: Tensor, source: int) -> None:
    """Fill a CPU tensor on all ranks with that of rank ``source``."""
    if dist.is_initialized():
        _wait(dist.broadcast(tensor, source, async_op=True))


def is_in_parts(tensor: Tensor) -> bool:
    """Return True for a tensor of which every rank has a part: a DTensor."""
    return hasattr(tensor, "full_tensor")  # its class takes a second to load


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor, put together if it is in parts: then all ranks ask for it."""
    return tensor.full_tensor() if is_in_parts(tensor) else tensor  # type: ignore[attr-defined]


def own(tensor: Tensor) -> Tensor:
    """Return what this rank has of a tensor, which it may change there: its part, or all of it."""
    return tensor.to_local() if is_in_parts(tensor) else tensor  # type: ignore[attr-defined]


def barrier() -> None:
    """Wait until every rank is here."""
    any_rank(False)


def _wait(exchange: Any) -> None:
    exchange.wait()
    _latest.append(exchange)
