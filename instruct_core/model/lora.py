"""
Low-rank adapters beside the projections of any model, which knows nothing of them.

    adapt(model, lora, dropout=0.0)                    # freezes all else
    draw(model, seed=1337)
    tensors = saved_tensors(model)                     # what a checkpoint keeps, under PEFT's names
    load_saved(model, tensors)

An adapted projection adds scale * B(A(x)) to what it returns; A is drawn, B is zero, so the model
begins as its base. Where products are made in 16 bits the frozen projections lie in these: autocast would
round them at every product anyway, so nothing that is computed changes. All else stays in float32.

Sources: Hu et al. 2021 (arXiv 2106.09685); PEFT's lora/layer.py (how A is drawn, names of the tensors).

r: rank
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from instruct_core.errors import CorruptFileError
from instruct_core.lora_settings import PREFIX, Base, Lora, adapter_config, chosen
from instruct_core.model.family import Model, misfit
from instruct_core.model.halves import check_range

AS_FLOAT32 = "Begin another --run with --precision fp32."


def projections(model: Model) -> dict[str, nn.Module]:
    """Return the matrices of a model's layers by name: what can be adapted."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(weight := getattr(module, "weight", None), nn.Parameter)
        and weight.dim() == 2
        and not isinstance(module, nn.Embedding)
        and weight is not model.head_weight
    }


def is_turned(module: nn.Module) -> bool:
    """Return True if a projection's weight lies as (inputs, outputs), as GPT-2's does."""
    return bool(getattr(module, "fan_in_fan_out", False))


def sides(module: nn.Module) -> tuple[int, int]:
    """Return a projection's inputs and outputs."""
    first, second = module.get_parameter("weight").shape
    return (first, second) if is_turned(module) else (second, first)


class Factor(nn.Module):
    """A matrix without a bias; not drawn yet."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight)


class Adapted(nn.Module):
    """
    A projection with an adapter beside it.

    Args:
        base_layer: The projection, frozen.
        lora: How it is adapted.
        dropout: Probability on what enters the adapter while training.
    """

    def __init__(self, base_layer: nn.Module, lora: Lora, dropout: float) -> None:
        super().__init__()
        inputs, outputs = sides(base_layer)
        self.base_layer, self.scale = base_layer, lora.scale
        self.lora_A = Factor(inputs, lora.rank)
        self.lora_B = Factor(lora.rank, outputs)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        added: Tensor = self.lora_B(self.lora_A(self.drop(x)))
        y: Tensor = self.base_layer(x) + self.scale * added
        return y


def adapt(model: Model, lora: Lora, dropout: float, half: torch.dtype | None = None) -> None:
    """
    Freeze a model and put adapters beside its projections; `draw` or `load_saved` sets them.

    Args:
        model: With its weights, on the host.
        lora: How it is adapted.
        dropout: Probability on what enters an adapter while training.
        half: Type of 16 bits in which products are made, if they are.

    Raises:
        ConfigError: There is no such projection, or a weight is too large for that type.
    """
    model.requires_grad_(False)
    found = projections(model)
    for name, module in found.items() if half is not None else ():
        if half == torch.float16:
            for each in module.parameters():
                check_range({name: each}, "--precision", "base", AS_FLOAT32)
        module.to(half)
    for name in chosen(lora.targets, found):
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, Adapted(found[name], lora, dropout))


def _adapted(model: nn.Module) -> dict[str, Adapted]:
    return {name: each for name, each in model.named_modules() if isinstance(each, Adapted)}


@torch.no_grad()
def draw(model: nn.Module, seed: int) -> None:
    """Draw every A as PEFT does, and set every B to zero; a seed gives the same ones everywhere."""
    generator = torch.Generator().manual_seed(seed)
    for _, each in sorted(_adapted(model).items()):
        bound = 1 / math.sqrt(each.lora_A.weight.shape[1])  # Kaiming's, with a slope of sqrt(5)
        each.lora_A.weight.uniform_(-bound, bound, generator=generator)
        each.lora_B.weight.zero_()


def saved_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return what a checkpoint keeps of a model: its adapters where it has any, else all weights."""
    state: dict[str, Tensor] = model.state_dict()
    adapters = {
        f"{name}.{factor}.weight" for name in _adapted(model) for factor in ("lora_A", "lora_B")
    }
    if not adapters:
        return state
    return {f"{PREFIX}{name}": value for name, value in state.items() if name in adapters}


def load_saved(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """
    Give a model what `saved_tensors` has returned, the very tensors.

    Raises:
        CorruptFileError: They are of another model.
    """
    expected = {name: tuple(value.shape) for name, value in saved_tensors(model).items()}
    found = {name: tuple(value.shape) for name, value in tensors.items()}
    if told := misfit(expected, found):
        raise CorruptFileError(f"Weights that were saved are of another model: {told}.")
    state = {name.removeprefix(PREFIX): value for name, value in tensors.items()}
    model.load_state_dict(state, strict=len(state) == len(model.state_dict()), assign=True)


def adapter_file(model: nn.Module, lora: Lora, base: Base, dropout: float) -> dict[str, Any]:
    """Return the content of adapter_config.json for an adapted model."""
    adapted = _adapted(model)
    turned = any(is_turned(each.base_layer) for each in adapted.values())
    place = None if base.place == "random" else base.place
    return adapter_config(lora, adapted, turned, place, dropout)


@torch.no_grad()
def merge(
    model: Model, weights: dict[str, Tensor], tensors: Mapping[str, Tensor], lora: Lora, where: str
) -> None:
    """
    Add adapters to weights, in place.

    Args:
        model: Of their shape; its own weights are not looked at.
        weights: All of the base's, in float32.
        tensors: The adapters, as a checkpoint keeps them.
        lora: How they are scaled.
        where: Of the adapters, for messages.

    Raises:
        CorruptFileError: An adapter fits no weight.
    """
    found = projections(model)
    kinds = {kind: _factors(tensors, kind) for kind in ("lora_A", "lora_B")}
    if others := [n for n in sorted(tensors) if not n.endswith(tuple(map(_end, kinds)))]:
        raise CorruptFileError(
            f"Adapter {where} has {others[0]}, which is no lora_A or lora_B of a projection. Merge it "
            "with PEFT (merge_and_unload) and give the merged folder."
        )
    if alone := sorted(kinds["lora_A"].keys() ^ kinds["lora_B"].keys()):
        raise CorruptFileError(
            f"Adapter {where} must have a lora_A and a lora_B for each projection: of {alone[0]} one is "
            "missing."
        )
    for name, a in sorted(kinds["lora_A"].items()):
        b, module = kinds["lora_B"][name], found.get(name)
        fits = module is not None and (a.shape[1], b.shape[0]) == sides(module)
        if module is None or not fits or a.shape[0] != lora.rank or b.shape[1] != lora.rank:
            raise CorruptFileError(
                f"Adapter {where} does not fit its base: {name} has factors of shape {tuple(a.shape)} "
                f"and {tuple(b.shape)}, rank {lora.rank}."
            )
        delta = lora.scale * (b.float() @ a.float())
        weights[f"{name}.weight"] += delta.t() if is_turned(module) else delta


def _factors(tensors: Mapping[str, Tensor], kind: str) -> dict[str, Tensor]:
    end = _end(kind)
    return {
        n.removeprefix(PREFIX).removesuffix(end): t for n, t in tensors.items() if n.endswith(end)
    }


def _end(kind: str) -> str:
    return f".{kind}.weight"
