"""
Messages as ShareGPT writes them: {"from", "value"}, by human, gpt and system.

    turn_of({"from": "human", "value": "Hi."}, "message 1")        # Turn("user", "Hi.")
"""

from __future__ import annotations

from typing import Any

from instruct_core.data.dialects.openai import is_learnt, refuse_unread, role_of
from instruct_core.data.turns import Turn
from instruct_core.data.values import a_type, checked, is_filled


def turn_of(message: dict[str, Any], where: str) -> Turn:
    """
    Return the turn of a message.

    Args:
        message: With from and value.
        where: Which message it is, for errors.

    Raises:
        ValueError: What is wrong with it.
    """
    role = role_of(message, "from", where)
    refuse_unread(message, role, where)
    for name in ("tool_calls", "function_call"):
        if is_filled(message.get(name)):
            raise ValueError(f"{where} has {name} beside from, expected role")
    value = message.get("value")
    if not isinstance(value, str):
        raise ValueError(f"{where}: value is {a_type(value)}, expected text")
    text = checked(value, f"{where}: value")
    return Turn(role, text, learnt=is_learnt(message, where))
