"""
A list of messages, in whichever dialect, also where a table keeps it as text.

    turns_of('[{"from": "human", "value": "Hi."}, {"from": "gpt", "value": "Hello."}]', "column chat")
"""

from __future__ import annotations

from typing import Any

from instruct_core.data.dialects import openai, sharegpt
from instruct_core.data.turns import Turn
from instruct_core.data.values import json_type, listed


def turns_of(value: Any, what: str) -> list[Turn]:
    """
    Return the turns of a list of messages.

    Args:
        value: The list, or the same as JSON in a text.
        what: Which field it is, for errors.

    Raises:
        ValueError: It is none, or one of its messages is none.
    """
    turns = []
    for number, message in enumerate(listed(value, what, "messages"), start=1):
        if not isinstance(message, dict):
            raise ValueError(
                f"{what}, message {number} is a {json_type(message)}, expected an object"
            )
        dialect = sharegpt if "from" in message and "role" not in message else openai
        turns.append(dialect.turn_of(message, f"{what}, message {number}"))
    return turns
