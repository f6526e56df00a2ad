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
    asked = text_in(record, question)
    if not asked or asked.isspace():
        raise EmptyQuestionError(f"column {question} is empty")
    turn = Turn("user", asked, optional(record, input))
    if not answer:
        return [turn]
    answered = text_in(record, answer)
    if not answered or answered.isspace():
        raise ValueError(f"column {answer} is empty: no response to learn")
    return [turn, Turn("assistant", answered)]


def optional(record: dict[str, Any], column: str) -> str:
    """Return the text of a field that may be left empty; raises ValueError for what is no text."""
    value = record.get(column) if column else None
    if value is None or value == "" or is_nan(value):
        return ""
    return text_in(record, column)
