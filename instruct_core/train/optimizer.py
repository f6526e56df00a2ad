"""
AdamW as the recipe has it, and its state under the names of the weights it belongs to.

    optimizer = make_optimizer(model, config)
    tensors = optimizer_tensors(model, optimizer)      # {"exp_avg/transformer.wte.weight": ...}

torch numbers the state by position in its groups; a checkpoint must not depend on that.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from instruct_core.config import TrainConfig


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """Return fused AdamW; only matrices decay, neither biases nor norms."""
    parameters = [p for _, p in sorted(model.named_parameters())]
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    betas = (config.beta1, config.beta2)
    return torch.optim.AdamW(
        groups, lr=config.learning_rate, betas=betas, eps=config.epsilon, fused=True
    )


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return every tensor of the optimizer's state as `kind/name of the weight`."""
    return {
        f"{kind}/{name}": value
        for name, parameter in model.named_parameters()
        for kind, value in optimizer.state.get(parameter, {}).items()
    }


def restore_optimizer(
    model: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]
) -> None:
    """Put back what `optimizer_tensors` returned; on a CPU the very tensors, which are now its own."""
    parameters = dict(model.named_parameters())
    for key, value in tensors.items():
        kind, _, name = key.partition("/")
        parameter = parameters[name]
        state = optimizer.state[parameter]
        state[kind] = value.to(parameter.device)
