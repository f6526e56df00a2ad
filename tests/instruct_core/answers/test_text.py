"""The text of an answer as it comes: whole characters, and nothing of a next instruction."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instruct_core.answers.text import AnswerText
from instruct_core.data.alpaca import HEADING
from instruct_core.data.tokenizer import load_tokenizer

TOKENIZER = load_tokenizer()
PIECES = st.sampled_from(
    ["### ", "Instruction", ":", "#", "\n\n", " ", "é", "🙂", "日本", "### Instruction:"]
)


def shown(tokens: list[int]) -> list[str]:
    text = AnswerText(TOKENIZER, [HEADING])
    parts = []
    for token in tokens:
        parts.append(text.take(token))
        if text.is_over:
            break
    parts.append(text.rest())
    assert "".join(parts) == text.shown
    return parts


@given(st.text() | st.lists(PIECES).map("".join))
def test_parts_are_the_answer_up_to_a_next_instruction(text: str) -> None:
    assert (
        "".join(shown(TOKENIZER.encode(text)))
        == text.split("### Instruction:", maxsplit=1)[0].strip()
    )


@given(st.text("ab #\n", max_size=20), st.lists(st.text("ab#\n", max_size=3), max_size=3))
def test_answer_ends_where_the_first_of_its_ends_is_complete(text: str, ends: list[str]) -> None:
    said = text.lstrip()
    found = [(said.find(end) + len(end), said.find(end)) for end in ends if end and end in said]
    expected = said[: min(found)[1]] if found else said

    answer = AnswerText(TOKENIZER, ends)
    for token in TOKENIZER.encode(text):
        answer.take(token)
    answer.rest()

    assert answer.shown == expected.rstrip()
    assert answer.is_over == bool(found)


@settings(max_examples=200)
@given(st.lists(st.integers(0, 50255), max_size=30))
def test_any_tokens_give_what_decoding_all_of_them_gives(tokens: list[int]) -> None:
    expected = TOKENIZER.decode(tokens).split("### Instruction:")[0].strip()

    assert "".join(shown(tokens)) == expected


@pytest.mark.parametrize("character", ["é", "日", "🙂", "👩‍👩‍👧"])
def test_character_of_several_tokens_comes_whole(character: str) -> None:
    tokens = TOKENIZER.encode(f"a{character}b")
    assert len(tokens) > 3 or len(character.encode()) < 3

    for part in shown(tokens):
        assert "\ufffd" not in part


def test_words_come_as_soon_as_they_are_certain() -> None:
    text = AnswerText(TOKENIZER, [HEADING])

    parts = [text.take(token) for token in TOKENIZER.encode("One two.\n\n### Instr")]

    assert parts[:3] == ["One", " two", "."]
    assert not any(parts[3:])
    assert text.rest() == "\n\n### Instr"
