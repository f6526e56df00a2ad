"""
A prompt that fits the model: the question, and as many earlier exchanges as there is room for.

    prompt = fit_prompt(tokenizer, turns, Row("And the next?", "", ""), max_seq_len=1024, answer=128)
    prompt.tokens, prompt.num_dropped         # [21017, ...], 2: the two oldest were left out
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from instruct_core.data.template import Row, render_prompt, with_history
from instruct_core.data.tokenizer import Tokenizer
from instruct_core.errors import ConfigError


class Prompt(NamedTuple):
    """Tokens up to where the answer begins, and how many earlier exchanges are not among them."""

    tokens: list[int]
    num_dropped: int


def fit_prompt(
    tokenizer: Tokenizer, turns: Sequence[Row], question: Row, max_seq_len: int, answer: int
) -> Prompt:
    """
    Return the prompt of a question, without the oldest turns if all do not fit.

    Args:
        turns: Earlier exchanges, oldest first.
        question: Its output is not used.
        max_seq_len: Positions of the model.
        answer: Tokens to leave free for the answer, where half of the positions suffice.

    Raises:
        ConfigError: The question alone leaves no room for an answer.
    """
    room = max_seq_len - min(answer, max_seq_len // 2)
    for first in range(len(turns) + 1):
        instruction = with_history(turns[first:], question.instruction)
        tokens = tokenizer.encode(render_prompt(instruction, question.input))
        if len(tokens) <= room:
            return Prompt(tokens, first)
    # Alone at last; it may take the answer's room, but not all of it.
    if len(tokens) >= max_seq_len:
        raise ConfigError(
            f"The question has {len(tokens):,} tokens with its headings, and the model takes at most "
            f"{max_seq_len - 1:,} to leave room for an answer. Shorten it."
        )
    return Prompt(tokens, len(turns))
