"""
A prompt of messages with its completion: what was said, and how it goes on.

    turns_of({"prompt": [{"role": "user", "content": "Hi."}], "answer": "Hello."}, "prompt", "answer")

Either may be a list of messages or a text; every answer in them is learnt, those of the prompt too.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from instruct_core.data.dialects import messages
from instruct_core.data.turns import Turn
from instruct_core.data.values import is_filled, text_in


def fits(record: dict[str, Any], question: str, answer: str) -> bool:
    """Return True if one of both columns holds a list."""
    # Asked of every row of a source: a loop over both names takes three times as long.
    return bool(
        (question and isinstance(record.get(question), list))
        or (answer and isinstance(record.get(answer), list))
    )


def turns_of(record: dict[str, Any], question: str, answer: str) -> list[Turn]:
    """
    Return the turns of the prompt and of what follows it.

    Args:
        record: A row of the source.
        question: The prompt's column.
        answer: That of the completion; "" where the row is only asked.

    Raises:
        ValueError: What is wrong with either.
    """
    turns = _side(record, question, "user")
    return turns + _side(record, answer, "assistant") if answer else turns


def refuse_beside(record: dict[str, Any], question: str, others: Iterable[str]) -> None:
    """
    Refuse a row that says more than its prompt: nothing tells to which of the messages it belongs.

    Args:
        record: A row that `fits`.
        question: The prompt's column.
        others: Columns that a question of text would be read with; "" for none.

    Raises:
        ValueError: One of them is filled.
    """
    for name in others:
        if name and is_filled(record.get(name)):
            raise ValueError(
                f"column {name} is filled, and is not read where {question} and its answer are messages"
            )


def _side(record: dict[str, Any], column: str, role: str) -> list[Turn]:
    if isinstance(record.get(column), list):
        return messages.turns_of(record[column], f"column {column}")
    return [Turn(role, text_in(record, column))]
