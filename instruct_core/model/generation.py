"""
Text from a model, token by token, with the keys and values of earlier tokens kept.

    answer = generate(model, tokenizer.encode(render_prompt("What is AI?")), max_new_tokens=64)

Greedy by default; with a temperature it draws from its own generator, so sampling while training
leaves the run's random numbers alone.

T: tokens so far, V: vocabulary
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from instruct_core.data.tokenizer import END_OF_TEXT_ID
from instruct_core.model.gpt2 import GPT2, Cache


@torch.inference_mode()
def generate(
    model: GPT2,
    prompt: Sequence[int],
    *,
    max_new_tokens: int = 128,
    temperature: float = 0.0,
    seed: int = 0,
    stop: Callable[[], bool] = lambda: False,
) -> list[int]:
    """
    Return the tokens that follow a prompt, up to the end of text, which is not among them.

    Args:
        model: In eval mode; its device is used.
        prompt: Token ids, at least one; the oldest are dropped if they leave no room.
        max_new_tokens: Stop after so many, or where the context is full.
        temperature: 0 takes the likeliest token, more draws more freely.
        seed: Of the draws.
        stop: Asked before each token; True ends the text there.
    """
    device = model.head_weight.device
    generator = torch.Generator(device).manual_seed(seed)
    room = model.config.max_seq_len
    tokens = list(prompt)[-(room - 1) :]
    max_new_tokens = min(max_new_tokens, room - len(tokens))
    cache: Cache = []
    answer: list[int] = []
    fresh, position = tokens, 0
    while len(answer) < max_new_tokens and not stop():
        ids = torch.tensor([fresh], device=device)  # (1, T) first, then (1, 1)
        positions = torch.arange(position, position + len(fresh), device=device)[None]
        logits = model.logits(model(ids, positions, None, cache)[0, -1]).float()  # (V,)
        position += len(fresh)
        if temperature > 0:
            weights = torch.softmax(logits / temperature, dim=-1)
            token = int(torch.multinomial(weights, 1, generator=generator).item())
        else:
            token = int(logits.argmax().item())  # the next token depends on it: this wait is real
        if token == END_OF_TEXT_ID:
            break
        answer.append(token)
        fresh = [token]
    return answer
