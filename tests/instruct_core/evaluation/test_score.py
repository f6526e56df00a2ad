"""Answers to validation rows: which rows, cut where, and how they are scored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from instruct_core.answers import batch as module
from instruct_core.answers.generation import Generated
from instruct_core.config import ModelConfig
from instruct_core.data.shards import ShardSet
from instruct_core.data.templates import BY_HEADINGS
from instruct_core.data.tokenizer import load_tokenizer
from instruct_core.evaluation.score import drawn_examples, greedy_answers, score
from instruct_core.model.gpt2 import GPT2
from instruct_core.storage.store import Store

SHAPE = ModelConfig(num_layers=2, num_heads=2, width=64, max_seq_len=128)


@pytest.fixture
def rows(shard_set: Path) -> ShardSet:
    return ShardSet(Store(shard_set), "val")


@pytest.fixture
def model() -> GPT2:
    model = GPT2(SHAPE)
    model.initialize(seed=3)
    with torch.no_grad():  # so that one token is clearly the likeliest
        for parameter in model.parameters():
            parameter.mul_(3.0)
    return model.eval()


def test_examples_are_rows_without_their_end_of_text(rows: ShardSet) -> None:
    examples = drawn_examples(rows, count=5, max_seq_len=1024)

    tokenizer = load_tokenizer()
    for row, example in zip(rows.drawn(5), examples, strict=True):
        text = tokenizer.decode(rows.tokens(row, 0, 1000).tolist())
        assert text == f"{example.prompt_text}{example.reference}<|endoftext|>"
        assert example.prompt_text.endswith("### Response:\n")
        assert example.reference.startswith("word")
        assert example.prompt == tokenizer.encode(example.prompt_text)
    assert len(examples) == 5


def test_examples_are_fewer_where_there_are_fewer_rows(rows: ShardSet) -> None:
    assert len(drawn_examples(rows, count=1000, max_seq_len=1024)) == len(rows) == 30


def test_prompts_without_room_for_a_token_are_left_out(rows: ShardSet) -> None:
    lengths = [int(rows.spans(row)[-1, 0]) for row in rows.drawn(len(rows))]
    most = max(lengths)
    assert min(lengths) < most

    examples = drawn_examples(rows, count=1000, max_seq_len=most)

    assert [len(example.prompt) for example in examples] == [n for n in lengths if n < most]


def test_answers_do_not_depend_on_their_neighbours(rows: ShardSet, model: GPT2) -> None:
    examples = drawn_examples(rows, count=20, max_seq_len=SHAPE.max_seq_len)
    told = list[None]()

    together = greedy_answers(
        model, examples, load_tokenizer(), BY_HEADINGS, 8, lambda: told.append(None)
    )

    alone = [
        greedy_answers(model, [example], load_tokenizer(), BY_HEADINGS, 8)[0]
        for example in examples
    ]
    assert together == alone
    assert len(set(alone)) > 1, "answers that are all alike cannot be mixed up"
    assert len(told) == len(examples)


def test_answer_ends_where_another_instruction_begins(
    rows: ShardSet, model: GPT2, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = load_tokenizer().encode(" It is blue.\n\n### Instruction:\nAnd the sea?")
    taken = list[int]()

    def chatty(
        model: GPT2,
        prompts: Sequence[Sequence[int]],
        *,
        on_token: Callable[[int, int], bool],
        **others: object,
    ) -> list[Generated]:
        for token in said:
            taken.append(token)
            if not on_token(0, token):
                break
        return [Generated(taken, "stopped")]

    monkeypatch.setattr(module, "generate", chatty)

    [answer] = greedy_answers(
        model, drawn_examples(rows, 1, 1024), load_tokenizer(), BY_HEADINGS, 99
    )

    assert answer == "It is blue."
    assert len(taken) < len(said)


def test_score_is_exact_to_the_letter_and_rouge_l_by_its_definition() -> None:
    answers = ["the cat on mat", " Paris\n", "paris", "nothing alike"]
    references = ["the cat sat on the mat", "Paris", "Paris", "other words"]

    scores = score(answers, references)

    # A common subsequence of 4 words: precision 4/4, recall 4/6, F1 0.8. Case does not count.
    assert scores.exact_match == 1 / 4
    assert scores.rouge_l == pytest.approx((0.8 + 1 + 1 + 0) / 4)
