"""What of a conversation fits the model: the question always, the oldest exchanges last."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from instruct_core.answers.prompt import Prompt, fit_prompt
from instruct_core.data.columns import CHAT
from instruct_core.data.encoding import encode
from instruct_core.data.templates import BY_HEADINGS
from instruct_core.data.tokenizer import load_tokenizer
from instruct_core.data.turns import Exchange, Turn
from instruct_core.errors import ConfigError

TOKENIZER = load_tokenizer()
TURNS = [t for n in range(5) for t in Exchange(f"Question {n}?", "", f"Answer {n}.").turns]
QUESTION = Turn("user", "And now?")


def fit(turns: Sequence[Turn], max_seq_len: int = 1024, answer: int = 64) -> Prompt:
    return fit_prompt(TOKENIZER, BY_HEADINGS, turns, max_seq_len, answer)


def text_of(*turns: Turn) -> str:
    return TOKENIZER.decode(fit(turns).tokens)


def test_prompt_is_the_beginning_of_what_chats_are_trained_on() -> None:
    messages = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello."}]
    messages += [{"role": "user", "content": "And now?"}, {"role": "assistant", "content": "x"}]

    row = encode([BY_HEADINGS.segments(CHAT.to_chat({"messages": messages}).turns)], TOKENIZER)
    prompt = fit([*Exchange("Hi.", "", "Hello.").turns, QUESTION])

    assert prompt.tokens == row.tokens[: row.spans[-1][0]].tolist()


def test_input_blocks_of_earlier_questions_are_kept() -> None:
    text = text_of(*Exchange("Add.", "1, 2", "3").turns, Turn("user", "Again.", "4, 5"))

    assert text == (
        "### Instruction:\nAdd.\n\n### Input:\n1, 2\n\n### Response:\n3<|endoftext|>\n\n"
        "### Instruction:\nAgain.\n\n### Input:\n4, 5\n\n### Response:\n"
    )


def test_oldest_exchanges_are_dropped_when_the_model_has_no_room() -> None:
    whole = fit([*TURNS, QUESTION])
    room = len(whole.tokens) + 64

    assert whole.num_dropped == 0
    assert fit([*TURNS, QUESTION], room, 64) == whole
    shorter = fit([*TURNS, QUESTION], room - 1, 64)
    assert shorter.num_dropped == 1
    assert TOKENIZER.decode(shorter.tokens) == text_of(*TURNS[2:], QUESTION)
    assert fit([*TURNS, QUESTION], 24, 12).num_dropped == 5


def test_question_may_take_the_answers_room_but_not_all_of_it() -> None:
    length = len(fit([QUESTION]).tokens)

    assert fit([*TURNS, QUESTION], length + 1, 64).num_dropped == 5
    with pytest.raises(ConfigError, match=f"has {length} tokens .* takes at most {length - 1} "):
        fit([*TURNS, QUESTION], length, 64)
