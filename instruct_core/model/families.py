"""
The families of models, found by the `model_type` of a config.json.

    model = build(shape, dropout=0.0)                 # GPT2 or Llama, its weights still to be set
    shape, weights = read(found, "path/to/model")

A family more is a module, its shape, and a line in each of these.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from instruct_core.errors import ConfigError
from instruct_core.llama_config import LLAMA_TYPES
from instruct_core.model.family import Model
from instruct_core.model.gpt2 import GPT2
from instruct_core.model.gpt2_weights import read_gpt2
from instruct_core.model.llama import Llama
from instruct_core.model.llama_weights import read_llama
from instruct_core.model.weight_files import Found
from instruct_core.shape import Shape

CONFIG = "config.json"  # of a folder, which names its family

MODULES: dict[str, Callable[[Any, float], Model]] = {
    "gpt2": GPT2,
    **dict.fromkeys(LLAMA_TYPES, Llama),
}
READERS: dict[str, Callable[[Found, str], tuple[Shape, dict[str, Tensor]]]] = {
    "gpt2": read_gpt2,
    **dict.fromkeys(LLAMA_TYPES, read_llama),
}


def build(shape: Shape, dropout: float = 0.0) -> Model:
    """Return the model of a shape, whose weights are still to be loaded or drawn."""
    return MODULES[shape.model_type](shape, dropout)


def read(found: Found, init: str) -> tuple[Shape, dict[str, Tensor]]:
    """
    Return the shape and the weights that files hold, as float32 under our own names.

    Where no model_type is said, it is taken for a GPT-2.

    Raises:
        ConfigError: It is of no family that is known, or not a plain one of its family.
    """
    said = ((said.place, said.values.get("model_type")) for said in found.said if said.is_of_model)
    place, kind = next(((p, k) for p, k in said if k is not None), ("", "gpt2"))
    if str(kind) not in READERS:
        raise ConfigError(
            f"Model {init} is of no family that is known here: {place} has model_type {kind}, and only "
            f"{', '.join(READERS)} are followed. Give another model."
        )
    try:
        return READERS[str(kind)](found, init)
    except ConfigError as error:
        if place or not any(said.place == CONFIG for said in found.said):
            raise
        raise ConfigError(
            f"{str(error).removesuffix(' Give another model.')} It was taken for a GPT-2, because "
            f"{CONFIG} has no model_type: if it is another, add that."
        ) from None
