"""
Earlier exchanges in a column beside the question: pairs, as sets in Alpaca's columns have them.

    turns_of([["Capital of France?", "Paris."]], "column history")

A list of messages is taken too. The answers in it are learnt like every answer of a chat.
"""

from __future__ import annotations

from typing import Any

from instruct_core.data.dialects import messages
from instruct_core.data.turns import Turn
from instruct_core.data.values import checked, is_filled, listed


def turns_of(value: Any, what: str) -> list[Turn]:
    """
    Return the turns before the question; none where the field is empty.

    Args:
        value: Of the field: a list, or the same as JSON in a text.
        what: Which field it is, for errors.

    Raises:
        ValueError: What is wrong with it.
    """
    if not is_filled(value):
        return []
    entries = listed(value, what, "pairs of question and answer")
    if all(isinstance(entry, dict) for entry in entries):
        return messages.turns_of(entries, what)
    turns = []
    for number, entry in enumerate(entries, start=1):
        where = f"{what}, entry {number}"
        is_pair = isinstance(entry, list) and len(entry) == 2
        if not is_pair or not all(isinstance(text, str) and text.strip() for text in entry):
            raise ValueError(f"{where} is no question with its answer, expected two texts")
        question, answer = (checked(text, where) for text in entry)
        turns += [Turn("user", question), Turn("assistant", answer)]
    return turns
