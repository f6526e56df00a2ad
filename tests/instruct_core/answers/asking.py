"""Prompts that are drawn, and what follows one of them."""

from __future__ import annotations

import numpy as np

from instruct_core.answers.generation import Generated, generate
from instruct_core.data.gpt2_tokenizer import VOCAB_SIZE
from instruct_core.model.gpt2 import GPT2


def prompts(count: int, seed: int = 0) -> list[list[int]]:
    draw = np.random.default_rng(seed)
    return [draw.integers(VOCAB_SIZE, size=draw.integers(1, 50)).tolist() for _ in range(count)]


def alone(model: GPT2, prompt: list[int], **settings: object) -> Generated:
    return generate(model, [prompt], **settings)[0]  # type: ignore[arg-type]
