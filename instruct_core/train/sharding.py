"""
Weights, gradients and moments in parts: every rank has its own rows of each tensor (FSDP2).

    shard(model, device)                  # from here on its parameters are DTensors
    part = part_of(tensor, parameter)     # of a whole tensor, what this rank has of it
    let_go(core)                          # after a forward without a backward

A layer is put together from all ranks when it is reached, in the forward and again in the backward, and
let go of behind it. So all ranks reach the same layers equally often, also those that have nothing to
compute. What is outside the layers, embeddings and head, stays together from forward to backward.

Source: torch.distributed.fsdp.fully_shard of torch 2.13; Rajbhandari et al. 2020 (arXiv 1910.02054).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from instruct_core import ranks
from instruct_core.model.family import Model
from instruct_core.model.weights import hash_weights


def shard(model: Model, device: torch.device) -> None:
    """
    Share a model out over all ranks, layer by layer: of these one is together at a time, and the next.

    Args:
        model: With its weights, on the host; where ranks have others, those of rank 0 count.
        device: Of this rank.
    """
    _agree(model)
    from torch.distributed.device_mesh import init_device_mesh  # they take a second to load
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (ranks.world_size(),))
    for layer in model.blocks:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)


def _agree(model: Model) -> None:
    """
    Have all ranks begin with the same weights, as DDP does.

    A node may have kept an older file in its memory, and nobody would see that parts of two models
    make one.
    """
    weights = {n: weight.view(-1).view(torch.uint8) for n, weight in model.state_dict().items()}
    if len(set(ranks.gather_from_ranks(hash_weights(weights)))) > 1:
        for name in sorted(weights):
            ranks.broadcast(weights[name], 0)


def part_of(whole: Tensor, parameter: Tensor) -> Tensor:
    """Return a tensor as its parameter lies: on its device, and of one that is in parts this rank's."""
    mesh = getattr(parameter, "device_mesh", None)
    if mesh is None or whole.shape != parameter.shape:  # a count of steps is everybody's
        return whole.to(parameter.device)
    from torch.distributed.tensor import distribute_tensor

    placements = parameter.placements  # type: ignore[attr-defined]
    part = distribute_tensor(whole.to(parameter.device), mesh, placements, src_data_rank=None)
    return part.clone()  # of its own: what it was cut from may go


def meet(core: nn.Module, device: torch.device) -> None:
    """Have all ranks go through a model once: the first forward settles which layers are inside which."""
    nothing = torch.zeros((1, 8), dtype=torch.int64, device=device)
    with torch.no_grad():
        core(nothing, nothing, nothing, nothing)
    let_go(core)


def let_go(core: nn.Module) -> None:
    """Let go of what a forward has left together for a backward that never comes."""
    core.model.reshard()  # type: ignore[operator,union-attr]
