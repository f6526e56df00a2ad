"""The text a row becomes, to the letter: trained models depend on it."""

from __future__ import annotations

from instruct_core.data.template import Segment
from instruct_core.data.templates import BY_HEADINGS
from instruct_core.data.turns import Exchange


def test_row_with_input_has_three_headings() -> None:
    prompt, response, end = BY_HEADINGS.segments(Exchange(" Add. ", " 1, 2 ", " 3\n").turns)

    assert prompt.text == "### Instruction:\nAdd.\n\n### Input:\n1, 2\n\n### Response:\n"
    assert response == Segment("3", is_learnt=True)
    assert end == Segment("<|endoftext|>", is_learnt=True, is_special=True)


def test_input_block_is_left_out_when_empty() -> None:
    [prompt] = BY_HEADINGS.segments(Exchange("Hi", " \n").turns, asks=True)

    assert prompt.text == "### Instruction:\nHi\n\n### Response:\n"
