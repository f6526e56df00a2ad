"""Prompts that are drawn, what follows one of them, and answers of so many tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np

from instruct_core.answers.generation import Generated, generate
from instruct_core.data.gpt2_tokenizer import VOCAB_SIZE
from instruct_core.model.gpt2 import GPT2


def prompts(count: int, seed: int = 0) -> list[list[int]]:
    draw = np.random.default_rng(seed)
    return [draw.integers(VOCAB_SIZE, size=draw.integers(1, 50)).tolist() for _ in range(count)]


def alone(model: GPT2, prompt: list[int], **settings: object) -> Generated:
    return generate(model, [prompt], **settings)[0]  # type: ignore[arg-type]


def until(lengths: list[int]) -> Callable[[int, int], bool]:
    """Let each text have so many tokens."""
    answered = Counter[int]()

    def goes_on(text: int, _: int) -> bool:
        answered[text] += 1
        return answered[text] < lengths[text]

    return goes_on
