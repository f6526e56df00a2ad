"""Small models of transformers of every kind of Llama, with random weights, saved as theirs are."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

SIZES = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 260, "max_position_embeddings": 96, "eos_token_id": 257,
    "bos_token_id": 256,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 24,
}  # fmt: skip
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 24}
KINDS: dict[str, dict[str, Any]] = {
    "llama-2": {"model_type": "llama", "num_key_value_heads": 4},
    "llama-3": {"model_type": "llama", "rope_theta": 500000.0, "rope_scaling": LLAMA3},
    "smollm2": {"model_type": "llama", "tie_word_embeddings": True, "rope_theta": 100000.0},
    "linear": {"model_type": "llama", "rope_scaling": {"type": "linear", "factor": 4.0}},
    "dynamic": {"model_type": "llama", "rope_scaling": {"type": "dynamic", "factor": 2.0}},
    "biases": {"model_type": "llama", "attention_bias": True, "mlp_bias": True, "head_dim": 6},
    "qwen2": {"model_type": "qwen2", "tie_word_embeddings": True, "rms_norm_eps": 0.1},
    "qwen2-yarn": {"model_type": "qwen2", "rope_scaling": YARN},
    "yarn-deepseek": {
        "model_type": "llama", "rope_theta": 100.0,  # so that what is truncated is no whole number
        "rope_scaling": YARN | {
            "mscale": 0.7, "mscale_all_dim": 1.0, "beta_fast": 16.0, "truncate": False,
        },
    },
    "qwen3": {"model_type": "qwen3", "head_dim": 16, "tie_word_embeddings": True},
    "qwen3-bias": {"model_type": "qwen3", "head_dim": 8, "attention_bias": True},
    "mistral": {"model_type": "mistral", "sliding_window": None},
    "mistral-window": {"model_type": "mistral", "sliding_window": 96},
}  # fmt: skip


def reference(kind: str, **settings: Any) -> PreTrainedModel:
    """Return a model of a kind whose scores differ enough to compare."""
    # transformers writes into what it is given.
    config = AutoConfig.for_model(**copy.deepcopy(SIZES | KINDS[kind] | settings))
    model = AutoModelForCausalLM.from_config(config).eval()
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            mean = 1.0 if "norm" in name else 0.0
            parameter.normal_(mean, 0.2, generator=generator)
    return model


def save_folder(folder: Path, model: PreTrainedModel, **settings: Any) -> None:
    """Write a Hugging Face folder whose config.json says more than its weights do."""
    model.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | settings))
