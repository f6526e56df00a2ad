"""
A question and its answer in columns of their own: Alpaca, Dolly, and whatever names them so.

    turns_of({"instruction": "Add.", "input": "1, 2", "output": "3"}, question="instruction", ...)
"""

from __future__ import annotations

from typing import Any

from instruct_core.data.turns import EmptyQuestionError, Turn
from instruct_core.data.values import is_nan, text_in


def turns_of(record: dict[str, Any], question: str, input: str, answer: str) -> list[Turn]:
    """
    Return the question, and the answer where it has a column.

    Args:
        record: A row of the source.
        question: Its column.
        input: That of what the question is about; "" for none.
        answer: That of the answer; "" where the row is only asked.

    Raises:
        EmptyQuestionError: The question says nothing.
        ValueError: A column is missing, no text, or says nothing.
    """
    turns = [Turn("user", text_in(record, question), optional(record, input))]
    if not turns[0].text or turns[0].text.isspace():
        raise EmptyQuestionError(f"column {question} is empty")
    if answer:
        turns.append(Turn("assistant", text_in(record, answer)))
        if not turns[1].text or turns[1].text.isspace():
            raise ValueError(f"column {answer} is empty: no response to learn")
    return turns


def optional(record: dict[str, Any], column: str) -> str:
    """Return the text of a field that may be left empty; raises ValueError for what is no text."""
    value = record.get(column) if column else None
    is_empty = value is None or value == "" or is_nan(value)
    return "" if is_empty else text_in(record, column)
