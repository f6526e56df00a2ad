"""
A model's matrices laid out for answering: on a CPU as oneDNN reads them, by all threads.

    pack(model, texts=1)    # it answers as before, and quicker; it cannot be trained or saved any more
    halve(model)            # instead: quicker again, with every weight rounded to float16
    narrow(model, "bf16")   # for a GPU: half of its memory, and the tensor cores

A step of generation is a few rows that meet every matrix, so it should take as long as reading them
does. On AMD's processors MKL takes one row through a matrix on one thread, and on all it is far from
that speed with sixteen. Weights that oneDNN has packed beforehand are read once, in order, by every
thread; long prompts gain too. They stay float32 and take the place of the plain ones; only an output
head lies there twice, since tokens are looked up in it. GELU and SiLU are computed where oneDNN writes
the product that they are of.

The operators are those that torch's compiler calls where weights are constant; none is compiled here.

A single text waits for its weights to be read, so half of the bytes is nearly half of the time. FBGEMM
keeps them in float16 and computes in float32 with them: weights lose what is beyond 11 bits, and nothing
else is rounded.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from instruct_core.model.family import Model
from instruct_core.model.halves import HALVES, check_range
from instruct_core.model.lora import is_turned, projections
from instruct_core.recipe import Kept

LEAVE_OUT = ("--weights", "model", "Leave --weights out.")


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
    _replace(model, lambda weight, bias: PackedLinear(weight, bias, texts))
    for module in model.modules():
        if isinstance(name := getattr(module, "activated", None), str):
            layer, activation = module.get_submodule(name), module.get_submodule("act")
            assert isinstance(layer, PackedLinear)
            layer.activation = _in_onednn(activation)
            module.register_module("act", nn.Identity())


def _in_onednn(activation: nn.Module) -> tuple[str, str]:
    """Return the name that oneDNN's operators have for an activation, and its form."""
    if isinstance(activation, nn.GELU):
        return "gelu", activation.approximate
    assert isinstance(activation, nn.SiLU)
    return "swish", ""


def can_halve() -> bool:
    """Return True where this torch has FBGEMM, and the processor what that needs: AVX2."""
    return "fbgemm" in torch.backends.quantized.supported_engines


@torch.no_grad()
def halve(model: Model) -> None:
    """
    Put layers that keep float16 in the place of a model's projections and of its output head.

    Args:
        model: On the CPU, in float32. Its token embedding is rounded too where it is the head, so all who
            read the head read the same numbers.

    Raises:
        ConfigError: A weight is too large for float16.
    """
    matrices = {name: module.get_parameter("weight") for name, module in projections(model).items()}
    check_range(matrices | {"the output head": model.head_weight}, *LEAVE_OUT)
    model.head_weight.copy_(model.head_weight.half())
    _replace(model, HalvedLinear)


@torch.no_grad()
def narrow(model: Model, kept: Kept) -> None:
    """
    Round all weights to 16 bits; from then on the model computes in them, but for positions.

    Args:
        model: In float32, on the host: a GPU need not have room for the wide ones.
        kept: bf16 or fp16.

    Raises:
        ConfigError: A weight is too large for float16.
    """
    if kept == "fp16":
        check_range(dict(model.named_parameters()), *LEAVE_OUT)
    for parameter in model.parameters():
        parameter.data = parameter.data.to(HALVES[kept])


def _replace(model: Model, layer: Callable[[Tensor, Tensor | None], nn.Module]) -> None:
    """Put a layer of weight and bias in the place of each projection, and a head beside the plain one."""
    for name, module in projections(model).items():
        weight = module.get_parameter("weight")
        own_layer = layer(weight.t() if is_turned(module) else weight, _bias(module))
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, own_layer)
    model.answering_head = layer(model.head_weight, None)


def _bias(module: nn.Module) -> Tensor | None:
    bias = getattr(module, "bias", None)
    return bias.detach() if isinstance(bias, Tensor) else None


class PackedLinear(nn.Module):
    """
    F.linear with a packed weight, and an activation of what it gives.

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
        self.activation = ("none", "")

    def forward(self, x: Tensor) -> Tensor:
        name, form = self.activation
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._packed, self._bias, name, [], form)
        return y


class HalvedLinear(nn.Module):
    """
    F.linear with a weight of float16, in float32.

    Args:
        weight: As F.linear takes it. (outputs, inputs)
        bias: Added, if there is one; it stays as it is. (outputs,)
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self._packed = torch.ops.quantized.linear_prepack_fp16(weight.detach().contiguous(), bias)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = torch.ops.quantized.linear_dynamic_fp16(x, self._packed)
        return y
