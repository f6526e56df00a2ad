"""
A list of messages, in whichever dialect, also where a table keeps it as text.

    turns_of('[{"from": "human", "value": "Hi."}, {"from": "gpt", "value": "Hello."}]', "column chat")
"""

from __future__ import annotations

from typing import Any

from instruct_core.data.dialects import openai, sharegpt
from instruct_core.data.dialects.text_calls import is_calling, with_calls
from instruct_core.data.turns import Turn
from instruct_core.data.values import a_type, is_filled, listed

# That are read in either dialect; what else a message has is counted.
READ = {"role", "content", "from", "value", "weight", "tool_calls", "function_call"}


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
            raise ValueError(f"{what}, message {number} is {a_type(message)}, expected an object")
        turns.append(_turn_of(message, f"{what}, message {number}"))
    return turns


def _turn_of(message: dict[str, Any], where: str) -> Turn:
    """Return the turn of a message; what it has of another dialect too must say the same."""
    # A table has fields for both, and null in those that a message does not use.
    is_openai = message.get("role") is not None or message.get("from") is None
    turn = openai.turn_of(message, where) if is_openai else sharegpt.turn_of(message, where)
    read = with_calls(turn, where) if is_calling(message["role" if is_openai else "from"]) else turn
    role, said = (message.get(k) for k in (("from", "value") if is_openai else ("role", "content")))
    if is_filled(role) and openai.ROLES.get(str(role).strip().lower()) != turn.role:
        raise ValueError(f"{where} has both role and from, and they differ: leave one out")
    if is_filled(said) and said != turn.text:
        raise ValueError(f"{where} has both content and value, and they differ: leave one out")
    has_inside = turn.calls or type(message.get("content")) is list
    if message.keys() <= READ and not has_inside:  # as most
        return read
    others = [name for name in message if name not in READ and is_filled(message[name])]
    inside = openai.unread_inside(message) if has_inside else []
    return read._replace(unread=(*read.unread, *others, *inside))
