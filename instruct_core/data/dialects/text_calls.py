"""
Calls of tools in a role of their own: what ShareGPT's files with tools have, and those of ms-swift.

    turn = Turn("assistant", '{"name": "add", "arguments": {"a": 1}}')     # of the role function_call
    with_calls(turn, "message 2")                # Turn("assistant", "", calls=({"name": "add", ...},))

The text is JSON: one call, or a list of them. A template writes calls in words of its own, and tells
the model of these; as a text they would be learnt in other words than are asked for.
"""

from __future__ import annotations

from instruct_core.data.dialects import openai
from instruct_core.data.turns import Turn
from instruct_core.storage.json_text import RepeatedKeyError, parse_json

ROLES = {"function_call", "tool_call"}


def is_calling(role: str) -> bool:
    """Return True if what is said in a role is a call."""
    return role in ROLES or role.strip().lower() in ROLES


def with_calls(turn: Turn, where: str) -> Turn:
    """
    Return a turn with the calls that its text is.

    Args:
        turn: What was said in such a role; one that has calls besides is left as it is.
        where: Which message it is, for errors.

    Raises:
        ValueError: The text is something else.
    """
    if turn.calls:
        return turn
    try:
        said = parse_json(turn.text)
    except RepeatedKeyError as error:
        raise ValueError(f"{where}: {error}") from None
    except ValueError:
        raise ValueError(
            f"{where} calls a tool, and its text is no JSON with name and arguments (in the role "
            "assistant it is learnt as text)"
        ) from None
    calls = said if isinstance(said, list) else [said]
    message = {"role": "assistant", "content": "", "tool_calls": calls}
    read = openai.turn_of(message, where)
    unread = tuple(openai.unread_inside(message))
    return turn._replace(text="", calls=read.calls, unread=unread, has_text_calls=True)
