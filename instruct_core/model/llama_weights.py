"""
A model of the Llama family as Hugging Face's folders have it, turned into our own.

    shape, weights = read_llama(found, "path/to/SmolLM2-135M")

Names and orientation are theirs already. Saved without its head a model has names without `model.`; a
tied head may be saved a second time, and must then be the embedding.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from instruct_core.errors import ConfigError
from instruct_core.llama_config import LlamaConfig
from instruct_core.model.llama_settings import llama_shape
from instruct_core.model.weight_files import Found, in_float32, is_equal, plain_tensors

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
LAYER = re.compile(r"model\.layers\.(\d+)\.")
BUFFERS = re.compile(r"\.rotary_emb\.inv_freq$")  # of older versions


def read_llama(found: Found, init: str) -> tuple[LlamaConfig, dict[str, Tensor]]:
    """
    Return the shape and the weights of a Llama; whether they are complete is not looked at.

    Args:
        found: Its files.
        init: Where they are, for messages.

    Raises:
        ConfigError: Its config says something that is not computed, or its head is another one.
    """
    said = next(said for said in found.said if said.is_of_model)
    shape = llama_shape(said.values, said.place, init)
    if found.generation:
        shape = replace(shape, end_ids=_ends(found.generation, shape))
    weights = _untied(_in_own_names(found.tensors, init), shape, init)
    layers = {match[1] for name in weights if (match := LAYER.match(name))}
    if len(layers) != shape.num_layers:
        raise ConfigError(
            f"Model {init} must be what {said.place} says: num_hidden_layers is {shape.num_layers}, and "
            f"the weights have {len(layers)}."
        )
    return shape, weights


def _ends(generation: Mapping[str, Any], shape: LlamaConfig) -> tuple[int, ...]:
    """Return the tokens that end a text: what is said for generation counts before the model's word."""
    said = generation.get("eos_token_id")
    ends = said if isinstance(said, list) else [said]
    known = tuple(end for end in ends if type(end) is int and 0 <= end < shape.vocab_size)
    return known or shape.end_ids


def _in_own_names(raw: Mapping[str, Any], init: str) -> dict[str, Tensor]:
    weights = {}
    for name, value in plain_tensors(raw).items():
        own = name if name.startswith(("model.", "lm_head.")) else f"model.{name}"
        if not BUFFERS.search(own):
            weights[own] = in_float32(name, value, init).contiguous()
    return weights


def _untied(weights: dict[str, Tensor], shape: LlamaConfig, init: str) -> dict[str, Tensor]:
    """Return the weights without a head that is the embedding once more."""
    if not shape.has_tied_head or HEAD not in weights or EMBEDDING not in weights:
        return weights
    embedding, head = weights[EMBEDDING], weights.pop(HEAD)
    if head.shape != embedding.shape or not is_equal(head, embedding):
        raise ConfigError(
            f"Model {init} has a head of its own, {HEAD}, and its config.json has tie_word_embeddings "
            "true. Set that to false if the head is meant."
        )
    return weights
