"""
What a model answers to rows that it was not trained on, and how near that is to what they say.

    examples = drawn_examples(rows, count=50, max_seq_len=1024)
    answers = greedy_answers(model, examples, rows.tokenizer, rows.template, max_new_tokens=128)
    score(answers, [example.reference for example in examples])     # exact_match 0.02, rouge_l 0.31

The likeliest token is taken each time, so the same model gives the same answers.

Source: Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries" (ROUGE-L), through
Google's rouge-score. It compares lower-cased runs of a-z and 0-9: text in another script scores 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from rouge_score.rouge_scorer import RougeScorer

from instruct_core.answers.batch import answer_prompts
from instruct_core.data.shards import ShardSet
from instruct_core.data.template import Template
from instruct_core.data.tokenizer import Tokenizer
from instruct_core.model.family import Model

BATCH_SIZE = 8


class Example(NamedTuple):
    """A row: tokens up to where the last response begins, the same as text, and the response."""

    prompt: list[int]
    prompt_text: str
    reference: str


class AnswerScores(NamedTuple):
    """Means over answers, 0..1."""

    exact_match: float
    rouge_l: float


def drawn_examples(rows: ShardSet, count: int, max_seq_len: int) -> list[Example]:
    """Return rows of all over a split; those whose prompt leaves no room to answer are left out."""
    tokenizer = rows.tokenizer
    examples = []
    for row in rows.drawn(count):
        start, end = rows.spans(row)[-1].tolist()
        if start >= max_seq_len:
            continue
        prompt = rows.tokens(row, 0, start).tolist()
        # The last token of a response ends it.
        response = rows.tokens(row, start, end - start - 1).tolist()
        examples.append(
            Example(prompt, tokenizer.decode(prompt), tokenizer.decode(response).strip())
        )
    return examples


def greedy_answers(
    model: Model,
    examples: Sequence[Example],
    tokenizer: Tokenizer,
    template: Template,
    max_new_tokens: int,
    on_answer: Callable[[], None] = lambda: None,
) -> list[str]:
    """
    Return the model's answer to each example, up to where it begins an instruction of its own.

    Args:
        model: In eval mode; its device is used.
        examples: Their prompts are shorter than the model has positions.
        tokenizer, template: Of the prompts, and of the model.
        max_new_tokens: Longest answer.
        on_answer: Called for each answer that is whole.
    """
    answers = answer_prompts(
        model,
        [example.prompt for example in examples],
        tokenizer,
        template,
        batch_size=BATCH_SIZE,
        max_new_tokens=max_new_tokens,
        on_answer=on_answer,
    )
    return [answer.text for answer in answers]


def score(answers: Sequence[str], references: Sequence[str]) -> AnswerScores:
    """
    Return how many answers are the reference to the letter, and their mean ROUGE-L F1.

    Args:
        answers: At least one.
        references: One for each; blanks around either do not count.
    """
    pairs = [
        (answer.strip(), reference.strip())
        for answer, reference in zip(answers, references, strict=True)
    ]
    scorer = RougeScorer(["rougeL"])
    rouge = [scorer.score(reference, answer)["rougeL"].fmeasure for answer, reference in pairs]
    exact = [answer == reference for answer, reference in pairs]
    return AnswerScores(sum(exact) / len(pairs), sum(rouge) / len(pairs))
