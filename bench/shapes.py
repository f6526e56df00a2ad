"""
Models that benchmarks measure: the presets, and SmolLM2-135M's shape.

    model = random_model("smollm2")
    theirs = transformers_of(model)         # the same weights, not a copy of them
"""

from __future__ import annotations

from typing import Any

from instruct_core.config import PRESETS
from instruct_core.llama_config import LlamaConfig
from instruct_core.model.families import build
from instruct_core.model.family import Model
from instruct_core.shape import Shape

SHAPES: dict[str, Shape] = {
    **PRESETS,
    "smollm2": LlamaConfig(
        num_layers=30, num_heads=9, num_kv_heads=3, head_dim=64, width=576, mlp_width=1536,
        max_seq_len=8192, vocab_size=49152, norm_epsilon=1e-5, rope_theta=100000.0, has_tied_head=True,
    ),
}  # fmt: skip


def random_model(name: str) -> Model:
    """Return a model of a shape, with random weights."""
    model = build(SHAPES[name])
    model.initialize(seed=0)
    return model


def transformers_of(model: Model) -> Any:
    """Return transformers' own module with a model's weights."""
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = dict(model.config.hugging_face)
    config = AutoConfig.for_model(settings.pop("model_type"), **settings)
    theirs = AutoModelForCausalLM.from_config(config)
    theirs.load_state_dict(model.state_dict() | {"lm_head.weight": model.head_weight}, assign=True)
    theirs.tie_weights()
    return theirs
