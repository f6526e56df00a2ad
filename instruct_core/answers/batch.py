"""
Answers to many prompts, those of like length side by side.

    answers = answer_prompts(model, prompts, tokenizer, template, batch_size=16, max_new_tokens=128)
    answers[0].text, answers[0].finish_reason         # "A field of ...", "end"

They begin shortest first, and as soon as some have ended others take their places: prompts that begin
together are filled up to the longest, so little is computed for nothing if they hardly differ.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from instruct_core.answers.generation import generate
from instruct_core.answers.line import EMPTY, TOO_LONG, Answered
from instruct_core.answers.sampling import Sampling
from instruct_core.answers.text import AnswerText
from instruct_core.data.template import Template
from instruct_core.data.templates import end_ids
from instruct_core.data.tokenizer import Tokenizer
from instruct_core.model.family import Model
from instruct_core.shape import usable_positions


def answer_prompts(
    model: Model,
    prompts: Sequence[Sequence[int]],
    tokenizer: Tokenizer,
    template: Template,
    *,
    batch_size: int,
    max_new_tokens: int,
    sampling: Sampling | None = None,
    first_stream: int = 0,
    on_answer: Callable[[], None] = lambda: None,
) -> list[Answered]:
    """
    Return the answers to prompts, in their order.

    Args:
        model: In eval mode.
        prompts: Token ids; none for a question that is empty, which the model is not asked.
        tokenizer, template: Of the prompts, and of the model.
        batch_size, max_new_tokens: Prompts answered side by side; the longest answer.
        sampling: How tokens are chosen; None takes the likeliest.
        first_stream: Which random numbers of the seed the first prompt draws; the others follow.
        on_answer: Called for each answer that is whole.
    """
    room = range(1, usable_positions(model.config))
    fitting = (n for n, tokens in enumerate(prompts) if len(tokens) in room)
    by_length = sorted(fitting, key=lambda n: len(prompts[n]))  # equal ones keep their order
    answers = [Answered("", TOO_LONG if tokens else EMPTY, 0) for tokens in prompts]
    texts = [AnswerText(tokenizer, [template.heading]) for _ in by_length]

    def goes_on(text: int, token: int) -> bool:
        texts[text].take(token)
        return not texts[text].is_over

    generated = generate(
        model,
        [prompts[n] for n in by_length],
        side_by_side=batch_size,
        max_new_tokens=max_new_tokens,
        sampling=sampling,
        streams=[first_stream + n for n in by_length],
        on_token=goes_on,
        on_end=lambda _: on_answer(),
        end_ids=end_ids(template, tokenizer),
    )
    for n, text, (tokens, reason) in zip(by_length, texts, generated, strict=True):
        text.rest()
        answers[n] = Answered(text.shown, reason, len(tokens))
    return answers
