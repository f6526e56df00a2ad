"""
A prompt that fits the model: the question, and as many earlier exchanges as there is room for.

    prompt = fit_prompt(tokenizer, template, [*history, Turn("user", "And the next?")], 1024, answer=128)
    prompt.tokens, prompt.num_dropped         # [21017, ...], 2: the two oldest were left out
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from instruct_core.data.encoding import prompt_tokens
from instruct_core.data.template import Template
from instruct_core.data.tokenizer import Tokenizer
from instruct_core.data.turns import Turn
from instruct_core.errors import ConfigError


class Prompt(NamedTuple):
    """Tokens up to where the answer begins, and how many earlier exchanges are not among them."""

    tokens: list[int]
    num_dropped: int


def fit_prompt(
    tokenizer: Tokenizer,
    template: Template,
    turns: Sequence[Turn],
    max_seq_len: int,
    answer: int,
    because: str = "",
) -> Prompt:
    """
    Return the prompt of a question, without the oldest exchanges if all do not fit.

    Args:
        tokenizer: Of the model.
        template: That the model was trained with.
        turns: The conversation, oldest first; the last one is the question. A system turn stays.
        max_seq_len: Positions of the model that can be used.
        answer: Tokens to leave free for the answer, where half of the positions suffice.
        because: Why there are no more positions, for the message.

    Raises:
        ConfigError: The question alone leaves no room for an answer, or the template has no words for
            the turns.
    """
    room = max_seq_len - min(answer, max_seq_len // 2)
    system = [turn for turn in turns[:1] if turn.role == "system"]
    asked = [place for place, turn in enumerate(turns) if turn.role == "user"]
    for dropped, first in enumerate(asked):
        try:
            segments = template.segments([*system, *turns[first:]], asks=True)
        except ValueError as error:
            raise ConfigError(f"Template {template.name} cannot write this: {error}.") from None
        tokens = prompt_tokens(segments, tokenizer)
        if len(tokens) <= room:
            return Prompt(tokens, dropped)
    # Alone at last; it may take the answer's room, but not all of it.
    if len(tokens) >= max_seq_len:
        why = f" (it was {because})" if because else ""
        raise ConfigError(
            f"The question has {len(tokens):,} tokens with its headings, and the model takes at most "
            f"{max_seq_len - 1:,} to leave room for an answer{why}. Shorten it."
        )
    return Prompt(tokens, len(asked) - 1)
