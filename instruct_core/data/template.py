"""
The text that a row becomes: Alpaca's headings, then the end-of-text token.

    prompt, response = render(Row("Add the numbers.", "1, 2", "3"))

The prompt ends right before the response, so generation uses the very same function. Loss on the
response alone needs to know where it starts; the shard keeps that place as a token index.

Source: Taori et al. 2023, Stanford Alpaca (the headings); the model learns to stop at
`<|endoftext|>`, which the tokenizer appends.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

HEADING = "### Instruction:"
TEMPLATE_NAME = "alpaca-headings-1"  # part of the fingerprint: change it with the text below


class Row(NamedTuple):
    """One training row; ``input`` may be empty. Fields are stripped when rendered."""

    instruction: str
    input: str
    output: str


def render_prompt(instruction: str, input: str = "") -> str:
    """Return the text up to where the response starts."""
    context = f"### Input:\n{input.strip()}\n\n" if input.strip() else ""
    return f"{HEADING}\n{instruction.strip()}\n\n{context}### Response:\n"


def with_history(earlier: Sequence[Row], instruction: str) -> str:
    """
    Return an instruction that follows earlier exchanges.

    Rendered, each exchange reads as a row of its own would, without its end-of-text token.
    """
    for row in reversed(earlier):
        exchange = render_prompt(row.instruction, row.input) + row.output.strip()
        instruction = f"{exchange}\n\n{HEADING}\n{instruction.strip()}"
        instruction = instruction.removeprefix(f"{HEADING}\n")
    return instruction


def render(row: Row) -> tuple[str, str]:
    """Return (prompt, response); the row's text is the one followed by the other."""
    return render_prompt(row.instruction, row.input), row.output.strip()
