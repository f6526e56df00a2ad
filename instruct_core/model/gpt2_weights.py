"""
A GPT-2 in whatever form somebody saved it, turned into our own.

    shape, weights = read_gpt2(found, "checkpoints/best_model.pt")

Names below `transformer.`, matrices as (inputs, outputs), a row for each token of its tokenizer and the
head tied to the embedding. A model that was built without biases gets biases of zero, which compute
the same; nothing else is filled in.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from instruct_core.config import ModelConfig
from instruct_core.data.gpt2_tokenizer import VOCAB_SIZE
from instruct_core.data.tokenizer import load_tokenizer, place_of_tokenizer
from instruct_core.data.tokenizer_files import GPT2 as GPT2_TOKENIZER
from instruct_core.errors import ConfigError
from instruct_core.model.foreign_settings import (
    Said,
    heads_said,
    positions_trained,
    refuse_relatives,
)
from instruct_core.model.gpt2 import GPT2
from instruct_core.model.weight_files import MAX_NAMES, Found, in_float32, is_equal, plain_tensors

EMBEDDING = re.compile(r"(.*?)(?:transformer\.)?wte\.weight")  # what stands before is a prefix
BIASES = (re.compile(r"\.c_\w+\.bias$"), re.compile(r"\.ln_\w+\.bias$"))
BUFFERS = re.compile(r"\.attn\.(?:bias|masked_bias)$")  # the causal mask of older versions
MATRICES = re.compile(r"\.(?:c_attn|c_proj|c_fc)\.weight$")


def read_gpt2(found: Found, init: str) -> tuple[ModelConfig, dict[str, Tensor]]:
    """
    Return the shape and the weights of a GPT-2; whether they are complete is not looked at.

    Args:
        found: Its files.
        init: Where they are, for messages.

    Raises:
        ConfigError: Not a plain GPT-2.
    """
    refuse_relatives(_without_ends(found.said, init), init)
    weights = _in_own_orientation(_in_own_names(found.tensors, init), init)
    shape = _shape_of(weights, found.said, init)
    return shape, weights | _missing_biases(shape, weights)


def _without_ends(said: Sequence[Said], init: str) -> list[Said]:
    """Leave out how texts end where a tokenizer of the model's own says it."""
    if place_of_tokenizer(init) == GPT2_TOKENIZER:
        return list(said)
    return [
        place._replace(values={k: v for k, v in place.values.items() if k != "eos_token_id"})
        for place in said
    ]


def _in_own_names(raw: Mapping[str, Any], init: str) -> dict[str, Tensor]:
    tensors = plain_tensors(raw)
    found = [match[1] for name in tensors if (match := EMBEDDING.fullmatch(name))]
    if len(found) != 1:
        there = ", ".join(sorted(raw)[:MAX_NAMES]) or "none"
        what = "two of them" if found else "transformer.wte.weight is missing"
        raise ConfigError(f"Model {init} holds no GPT-2: {what}. Its first tensors: {there}.")
    weights = {}
    for name, value in tensors.items():
        own = name.removeprefix(found[0])
        if BUFFERS.search(own):
            continue
        exact = in_float32(name, value, init)
        if not own.startswith(("transformer.", "lm_head.")):
            own = f"transformer.{own}"
        weights[own] = exact
    return weights


def _in_own_orientation(weights: dict[str, Tensor], init: str) -> dict[str, Tensor]:
    """Turn nn.Linear matrices, drop padded vocabulary rows, and check that the head is tied."""
    vocab_size = _vocab_size(init)
    embedding = weights["transformer.wte.weight"][:vocab_size]
    head = weights.pop("lm_head.weight", embedding)[:vocab_size]
    if head.shape != embedding.shape or not is_equal(head, embedding):
        raise ConfigError(f"Model {init} has a head of its own; GPT-2's is its token embedding.")
    width = embedding.shape[1]
    # c_attn tells: attention's c_proj is square and looks the same either way.
    first = weights.get("transformer.h.0.attn.c_attn.weight", torch.empty(0, 0))
    turned = tuple(first.shape) == (3 * width, width)
    result = {
        name: value.t().contiguous() if turned and MATRICES.search(name) else value.contiguous()
        for name, value in weights.items()
    }
    return result | {"transformer.wte.weight": embedding.contiguous()}


def _shape_of(weights: Mapping[str, Tensor], said: Sequence[Said], init: str) -> ModelConfig:
    vocab_size, width = weights["transformer.wte.weight"].shape
    layers = {int(m[1]) for name in weights if (m := re.match(r"transformer\.h\.(\d+)\.", name))}
    if vocab_size != (wanted := _vocab_size(init)) or not layers:
        raise ConfigError(
            f"Model {init} must be a GPT-2 of {wanted} tokens and at least one layer, "
            f"got {vocab_size} tokens and {len(layers)} layers."
        )
    if "transformer.wpe.weight" not in weights:
        raise ConfigError(f"Model {init} holds no GPT-2: transformer.wpe.weight is missing.")
    num_positions = weights["transformer.wpe.weight"].shape[0]
    num_heads = heads_said(said, len(layers), width, num_positions, init)
    if width % num_heads:
        raise ConfigError(
            f"Model {init} has a width of {width}, which {num_heads} heads do not divide."
        )
    trained = positions_trained(said, num_positions, init)
    return ModelConfig(len(layers), num_heads, width, num_positions, vocab_size, trained)


def _vocab_size(init: str) -> int:
    """Return how many tokens a model's tokenizer has."""
    place = place_of_tokenizer(init)
    return VOCAB_SIZE if place == GPT2_TOKENIZER else load_tokenizer(place).vocab_size


def _missing_biases(shape: ModelConfig, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return zeros for the biases of a model that was built without: it computes the same."""
    missing: dict[str, Tensor] = {}
    for kind in BIASES:
        names = {n: p for n, p in GPT2(shape).named_parameters() if kind.search(n)}
        if not names.keys() & weights.keys():
            missing |= {name: torch.zeros(p.shape) for name, p in names.items()}
    return missing
