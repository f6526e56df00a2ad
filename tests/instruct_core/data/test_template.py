"""The text a row becomes, to the letter: trained models depend on it."""

from __future__ import annotations

from instruct_core.data.template import Row, render, render_prompt


def test_row_with_input_has_three_headings() -> None:
    prompt, response = render(Row(" Add. ", " 1, 2 ", " 3\n"))

    assert prompt == "### Instruction:\nAdd.\n\n### Input:\n1, 2\n\n### Response:\n"
    assert response == "3"


def test_input_block_is_left_out_when_empty() -> None:
    assert render_prompt("Hi", " \n") == "### Instruction:\nHi\n\n### Response:\n"
