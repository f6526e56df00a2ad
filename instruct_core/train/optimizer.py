"""
AdamW as the recipe has it, and its state under the names of the weights it belongs to.

    optimizer = make_optimizer(model, config)
    tensors = optimizer_tensors(model, optimizer)      # {"exp_avg/transformer.wte.weight": ...}

torch numbers the state by position in its groups; a checkpoint must not depend on that. Its class
loads the compiler (torch._dynamo) before the first step, a second of every start that nobody needs
without `--compile`; its function, which does the computing, does not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from instruct_core.config import TrainConfig
from instruct_core.ranks import own
from instruct_core.train.sharding import part_of


class FusedAdamW:
    """
    `torch.optim.AdamW(..., fused=True)`, bit for bit, as far as the trainer needs it.

    Args:
        groups: Each with its `params` and `weight_decay`.
        lr: Of every group, until somebody changes it there.
        betas: Of the moments.
        eps: Added to the root of the second moment.
    """

    def __init__(
        self, groups: Sequence[dict[str, Any]], lr: float, betas: tuple[float, float], eps: float
    ) -> None:
        self.param_groups = [{"lr": lr, **group} for group in groups]
        self.state: dict[Tensor, dict[str, Tensor]] = {}
        self._beta1, self._beta2 = betas
        self._eps = eps

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients, or make them 0 where they are."""
        gradients = []
        for parameter in self._parameters():
            if set_to_none:
                parameter.grad = None
            elif parameter.grad is not None:
                gradients.append(parameter.grad)
        if gradients:
            torch._foreach_zero_(gradients)

    @torch.no_grad()
    def step(self, left_out: Tensor | None = None) -> None:
        """
        Update every parameter that has a gradient.

        Args:
            left_out: 1 where nothing is to be changed, else 0; the host never looks. (), float32
        """
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            states = [self._state_of(parameter) for parameter in parameters]
            adamw(
                [own(p) for p in parameters],
                [own(p.grad) for p in parameters],
                [own(state["exp_avg"]) for state in states],
                [own(state["exp_avg_sq"]) for state in states],
                [],
                [state["step"] for state in states],
                fused=True, amsgrad=False, maximize=False, beta1=self._beta1, beta2=self._beta2,
                lr=group["lr"], weight_decay=group["weight_decay"], eps=self._eps,
                found_inf=left_out,
            )  # fmt: skip

    def _parameters(self) -> list[Tensor]:
        return [parameter for group in self.param_groups for parameter in group["params"]]

    def _state_of(self, parameter: Tensor) -> dict[str, Tensor]:
        if parameter not in self.state:
            self.state[parameter] = {
                "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
        return self.state[parameter]


def make_optimizer(model: nn.Module, config: TrainConfig) -> FusedAdamW:
    """Return fused AdamW of what is not frozen; only matrices decay, neither biases nor norms."""
    parameters = [p for _, p in sorted(model.named_parameters()) if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    betas = (config.beta1, config.beta2)
    return FusedAdamW(groups, config.learning_rate, betas, config.epsilon)


def optimizer_tensors(model: nn.Module, optimizer: FusedAdamW) -> dict[str, Tensor]:
    """Return every tensor of the optimizer's state as `kind/name of the weight`, as they lie."""
    return {
        f"{kind}/{name}": value
        for name, parameter in model.named_parameters()
        for kind, value in optimizer.state.get(parameter, {}).items()
    }


def restore_optimizer(
    model: nn.Module, optimizer: FusedAdamW, tensors: Mapping[str, Tensor]
) -> None:
    """Put back what `optimizer_tensors` returned; on a CPU the very tensors, which are now its own."""
    parameters = dict(model.named_parameters())
    for key, value in tensors.items():
        kind, _, name = key.partition("/")
        parameter = parameters[name]
        state = optimizer.state.setdefault(parameter, {})
        state[kind] = part_of(value, parameter)
