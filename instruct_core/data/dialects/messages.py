"""
A list of messages, in whichever dialect, also where a table keeps it as text.

    turns_of('[{"from": "human", "value": "Hi."}, {"from": "gpt", "value": "Hello."}]', "column chat")
"""

from __future__ import annotations

import json
from typing import Any

from instruct_core.data.dialects import openai, sharegpt
from instruct_core.data.turns import Turn
from instruct_core.data.values import json_type


def turns_of(value: Any, what: str) -> list[Turn]:
    """
    Return the turns of a list of messages.

    Args:
        value: The list, or the same as JSON in a text.
        what: Which field it is, for errors.

    Raises:
        ValueError: It is none, or one of its messages is none.
    """
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except ValueError:
            raise ValueError(
                f"{what} is a text, and no JSON: expected a list of messages"
            ) from None
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise ValueError(f"{what} is a {json_type(value)}, expected a list of messages")
    turns = []
    for number, message in enumerate(value, start=1):
        dialect = sharegpt if "from" in message and "role" not in message else openai
        turns.append(dialect.turn_of(message, f"{what}, message {number}"))
    return turns
