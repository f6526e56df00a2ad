"""
A model's matrices laid out for answering on a CPU: as oneDNN reads them, by all threads.

    pack(model, texts=1)    # it answers as before, and quicker; it cannot be trained or saved any more

A step of generation is a few rows that meet every matrix, so it should take as long as reading them
does. MKL takes one row through a matrix on one thread, and is far from that speed with sixteen. Weights
that oneDNN has packed beforehand are read once, in order, by every thread; long prompts gain too. They
stay float32 and take the place of the plain ones; only an output head lies there twice, since tokens are
looked up in it.

The operators are those that torch's compiler calls where weights are constant; none is compiled here.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from instruct_core.model.family import Model
from instruct_core.model.lora import is_turned, projections


def can_pack() -> bool:
    """Return True where this torch has oneDNN and its operators."""
    has_onednn: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return has_onednn and hasattr(torch.ops.mkldnn, "_linear_pointwise")


@torch.no_grad()
def pack(model: Model, texts: int) -> None:
    """
    Put packed layers in the place of a model's projections and of its output head.

    Args:
        model: On the CPU, in float32.
        texts: How many it mostly goes on with side by side; any other number is answered too.
    """
    for name, module in projections(model).items():
        weight = module.get_parameter("weight")
        packed = PackedLinear(weight.t() if is_turned(module) else weight, _bias(module), texts)
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, packed)
    model.answering_head = PackedLinear(model.head_weight, None, texts)


def _bias(module: nn.Module) -> Tensor | None:
    bias = getattr(module, "bias", None)
    return bias.detach() if isinstance(bias, Tensor) else None


class PackedLinear(nn.Module):
    """
    F.linear with a packed weight.

    Args:
        weight: As F.linear takes it. (outputs, inputs)
        bias: Added, if there is one. (outputs,)
        rows: Of the inputs that it is packed for.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, rows: int) -> None:
        super().__init__()
        # No parameters: what is packed can be neither saved nor moved.
        reorder = torch.ops.mkldnn._reorder_linear_weight
        self._packed: Tensor = reorder(weight.detach().contiguous(), rows)
        self._bias = bias

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._packed, self._bias, "none", [], "")
        return y
