"""
A model's shape in Hugging Face's words, so that a step folder loads there as it is.

Source: transformers' configuration_gpt2.py (names and defaults).
"""

from __future__ import annotations

from typing import Any

from instruct_core.config import ModelConfig
from instruct_core.data.tokenizer import END_OF_TEXT_ID
from instruct_core.model.gpt2 import LAYER_NORM_EPSILON


def hugging_face_config(shape: ModelConfig) -> dict[str, Any]:
    """Return the content of config.json."""
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": shape.vocab_size,
        "n_positions": shape.max_seq_len,
        "n_embd": shape.width,
        "n_layer": shape.num_layers,
        "n_head": shape.num_heads,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": LAYER_NORM_EPSILON,
        "bos_token_id": END_OF_TEXT_ID,
        "eos_token_id": END_OF_TEXT_ID,
        "tie_word_embeddings": True,
    }
