"""What of a conversation fits the model: the question always, the oldest exchanges last."""

from __future__ import annotations

import pytest

from instruct_core.answers.prompt import fit_prompt
from instruct_core.data.columns import CHAT
from instruct_core.data.template import Row, render
from instruct_core.data.tokenizer import load_tokenizer
from instruct_core.errors import ConfigError

TOKENIZER = load_tokenizer()
TURNS = [Row(f"Question {n}?", "", f"Answer {n}.") for n in range(5)]
QUESTION = Row("And now?", "", "")


def text_of(turns: list[Row], question: Row, max_seq_len: int = 1024, answer: int = 64) -> str:
    return TOKENIZER.decode(fit_prompt(TOKENIZER, turns, question, max_seq_len, answer).tokens)


def test_prompt_is_the_one_that_chat_rows_are_trained_on() -> None:
    messages = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello."}]
    messages += [{"role": "user", "content": "And now?"}, {"role": "assistant", "content": "x"}]

    trained_on, _ = render(CHAT.to_row({"messages": messages}))

    assert text_of([Row("Hi.", "", "Hello.")], QUESTION) == trained_on


def test_input_blocks_of_earlier_questions_are_kept() -> None:
    text = text_of([Row("Add.", "1, 2", "3")], Row("Again.", "4, 5", ""))

    assert text == (
        "### Instruction:\nAdd.\n\n### Input:\n1, 2\n\n### Response:\n3\n\n"
        "### Instruction:\nAgain.\n\n### Input:\n4, 5\n\n### Response:\n"
    )


def test_oldest_exchanges_are_dropped_when_the_model_has_no_room() -> None:
    whole = fit_prompt(TOKENIZER, TURNS, QUESTION, 1024, 64)
    room = len(whole.tokens) + 64

    assert whole.num_dropped == 0
    assert fit_prompt(TOKENIZER, TURNS, QUESTION, room, 64) == whole
    shorter = fit_prompt(TOKENIZER, TURNS, QUESTION, room - 1, 64)
    assert shorter.num_dropped == 1
    assert TOKENIZER.decode(shorter.tokens) == text_of(TURNS[1:], QUESTION)
    assert fit_prompt(TOKENIZER, TURNS, QUESTION, 24, 12).num_dropped == 5


def test_question_may_take_the_answers_room_but_not_all_of_it() -> None:
    length = len(fit_prompt(TOKENIZER, [], QUESTION, 1024, 64).tokens)

    assert fit_prompt(TOKENIZER, TURNS, QUESTION, length + 1, 64).num_dropped == 5
    with pytest.raises(ConfigError, match=f"has {length} tokens .* takes at most {length - 1} "):
        fit_prompt(TOKENIZER, TURNS, QUESTION, length, 64)
