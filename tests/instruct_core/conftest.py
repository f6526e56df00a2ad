"""A small model whose logits differ enough to compare, and transformers' of the same weights."""

from __future__ import annotations

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from instruct_core.config import ModelConfig
from instruct_core.model.gpt2 import GPT2

SHAPE = ModelConfig(num_layers=3, num_heads=4, width=64, max_seq_len=256)


@pytest.fixture(scope="module")
def model() -> GPT2:
    model = GPT2(SHAPE)
    model.initialize(seed=3)
    with torch.no_grad():  # so that logits differ enough to compare
        for parameter in model.parameters():
            parameter.mul_(3.0)
    return model.eval()


@pytest.fixture(scope="module")
def reference(model: GPT2) -> GPT2LMHeadModel:
    theirs = GPT2LMHeadModel(GPT2Config(**SHAPE.hugging_face)).eval()
    theirs.load_state_dict(model.state_dict() | {"lm_head.weight": model.head_weight})
    return theirs
