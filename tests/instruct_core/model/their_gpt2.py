"""A small GPT-2 of transformers, saved as other people save theirs, and the same scores asked of ours."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from instruct_core.model.gpt2 import GPT2
from instruct_core.model.weights import load_pretrained

WIDTH, HEADS, LAYERS, POSITIONS = 24, 6, 3, 20
TOKENS = torch.tensor([[50, 6000, 41000, 7, 7, 50255]])
MODEL_ARGS = {
    "n_layer": LAYERS, "n_head": HEADS, "n_embd": WIDTH, "block_size": POSITIONS, "bias": True,
    "vocab_size": 50304, "dropout": 0.0,
}  # fmt: skip


def reference(**settings: Any) -> GPT2LMHeadModel:
    shape = {
        "n_layer": LAYERS, "n_head": HEADS, "n_embd": WIDTH, "n_positions": POSITIONS,
        "vocab_size": 50257,
    }  # fmt: skip
    model = GPT2LMHeadModel(GPT2Config(**shape | settings)).eval()
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.4, generator=generator)
    return model


def as_linear(model: GPT2LMHeadModel, rename: Callable[[str], str] = str) -> dict[str, Tensor]:
    """nanoGPT's form: matrices of nn.Linear, a vocabulary filled up to 50,304 rows."""
    weights = {}
    for name, value in model.state_dict().items():
        turned = name.endswith((".c_attn.weight", ".c_proj.weight", ".c_fc.weight"))
        own = value.t().contiguous() if turned else value
        if name in ("transformer.wte.weight", "lm_head.weight"):
            own = torch.cat([value, torch.zeros(47, WIDTH)])
        weights[rename(name)] = own
    return weights


def save_folder(folder: Path, model: GPT2LMHeadModel, **settings: Any) -> None:
    """Write a Hugging Face folder whose config.json says more than its weights do."""
    model.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | settings))


@torch.no_grad()
def assert_same_scores(place: Path, theirs: GPT2LMHeadModel) -> None:
    shape, weights = load_pretrained(str(place))
    ours = GPT2(shape).eval()
    ours.load_state_dict(weights)
    positions = torch.arange(TOKENS.shape[1])[None]

    scores = ours.logits(ours(TOKENS, positions, None))

    assert (scores - theirs(TOKENS).logits).abs().max() < 1e-4
