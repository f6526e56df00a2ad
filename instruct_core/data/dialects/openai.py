"""
Messages as OpenAI writes them: {"role", "content"}, with parts, calls of tools and weights.

    turn_of({"role": "developer", "content": [{"type": "text", "text": "Be brief."}]}, "message 1")
    # Turn("system", "Be brief.")

Sources: OpenAI's API reference, "Create chat completion" (roles, parts, tool_calls) and the guide to
fine-tuning (`weight`: 0 shows an answer without learning it).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from instruct_core.data.turns import Turn
from instruct_core.data.values import a_type, check_json, checked, is_filled, json_type
from instruct_core.storage.json_text import RepeatedKeyError, parse_json

ROLES = {
    "system": "system", "developer": "system", "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant",
    "bard": "assistant", "bing": "assistant", "model": "assistant", "ai": "assistant",
    "function_call": "assistant", "tool_call": "assistant", "tool": "tool", "function": "tool",
    "ipython": "tool", "observation": "tool", "function_response": "tool", "tool_response": "tool",
}  # fmt: skip
TEXT_PARTS = ("text", "input_text", "output_text")
# What belongs to what a message says, and no template here shows.
UNREAD = {
    "attachments", "audio", "audios", "context", "contexts", "document", "documents", "file", "files",
    "functions", "history", "image", "images", "input", "passage", "reasoning", "reasoning_content",
    "reasoning_details", "refusal", "thinking", "thought", "thoughts", "tool_results", "tools",
    "train_detail", "video", "videos",
}  # fmt: skip
# What most messages have, none of which is refused.
PLAIN = {"role", "content", "from", "value", "name", "weight", "tool_calls", "tool_call_id"}
# What a call and a part of a content have; the first says which call it is, and of what kind.
OF_A_CALL, OF_A_PART = {"id", "type", "index", "function", "name", "arguments"}, {"type", "text"}
# Many words say whether an answer is to be learnt: "train": false, "train_on_turn": false, "mask": 1.
LEARNS, EITHER = ("loss", "train", "learn"), ("mask",)


def turn_of(message: dict[str, Any], where: str) -> Turn:
    """
    Return the turn of a message.

    Args:
        message: With role and content.
        where: Which message it is, for errors.

    Raises:
        ValueError: What is wrong with it.
    """
    role = role_of(message, "role", where)
    refuse_unread(message, role, where)
    calls = _calls(message, where)
    if calls and role != "assistant":
        raise ValueError(f"{where} has calls of tools, and is no assistant's")
    text = "" if calls and message.get("content") is None else _text(message, where)
    return Turn(role, text, calls=calls, learnt=is_learnt(message, where))


def role_of(message: Mapping[str, Any], key: str, where: str) -> str:
    """Return the role of a message in our words; raises ValueError for one that is not known."""
    role = message.get(key)
    known = ROLES.get(role.strip().lower()) if isinstance(role, str) else None
    if known is None:
        raise ValueError(
            f"{where} has {key} {role!r}, expected system, developer, user, assistant or tool"
        )
    return known


def refuse_unread(message: Mapping[str, Any], role: str, where: str) -> None:
    """Raise ValueError where a message says something that no template here shows, or no run follows."""
    if message.keys() <= PLAIN:  # as most
        return
    is_told = role != "assistant" or message.get("weight") is not None
    for name, value in message.items():
        if name in UNREAD and is_filled(value):
            raise ValueError(f"{where} has {name}, which is not read")
        if not is_told and _may_be_against_learning(name, value):
            raise ValueError(
                f"{where} has {name} {value!r}, which is not read: say weight 0 for an answer that is "
                "not to be learnt, and 1 for others"
            )


def _may_be_against_learning(name: str, value: Any) -> bool:
    if not isinstance(value, (bool, int, float)):
        return False
    words = name.lower()
    if any(word in words for word in LEARNS):  # also "loss_mask": 0
        return not value
    return any(word in words for word in EITHER)  # some mean by it what is learnt, some what is not


def _text(message: dict[str, Any], where: str) -> str:
    if "content" not in message:
        raise ValueError(f"{where}: content is missing")
    content = message["content"]
    if isinstance(content, list):
        return "\n".join(_part(part, where) for part in content)
    if not isinstance(content, str):
        raise ValueError(f"{where}: content is {a_type(content)}, expected text")
    return checked(content, f"{where}: content")


def _part(part: Any, where: str) -> str:
    if isinstance(part, str):
        return checked(part, f"{where}: content")
    kind = part.get("type", "text") if isinstance(part, dict) else json_type(part)
    text = part.get("text") if isinstance(part, dict) else None
    if kind not in TEXT_PARTS or not isinstance(text, str):
        raise ValueError(f"{where}: content has a part of type {kind}, which is no text")
    for name in _others(part, OF_A_PART):
        if name in UNREAD or "type" not in part:
            raise ValueError(f"{where}: content has a part with {name}, which is not read")
    return checked(text, f"{where}: content")


def _calls(message: dict[str, Any], where: str) -> tuple[dict[str, Any], ...]:
    entries = message.get("tool_calls") or []
    if message.get("function_call"):
        entries = [*entries, {"function": message["function_call"]}]
    calls = []
    for entry in entries if isinstance(entries, list) else [None]:
        called = entry.get("function", entry) if isinstance(entry, dict) else None
        if not isinstance(called, dict) or not isinstance(called.get("name"), str):
            raise ValueError(f"{where}: tool_calls has an entry without a function's name")
        others = _others(called, OF_A_CALL)
        if others and called.get("arguments") is None:
            raise ValueError(
                f"{where}: tool_calls has {called['name']} with {others[0]}, which is not read, and "
                "without arguments"
            )
        arguments = called.get("arguments", {})
        if isinstance(arguments, str):
            try:
                arguments = parse_json(arguments) if arguments.strip() else {}
            except RepeatedKeyError as error:
                raise ValueError(f"{where}: arguments of {called['name']}: {error}") from None
            except ValueError:
                raise ValueError(f"{where}: arguments of {called['name']} are no JSON") from None
        calls.append({"name": called["name"], "arguments": arguments})
        check_json(calls[-1], f"{where}: arguments of {called['name']}")
    return tuple(calls)


def _others(value: Mapping[str, Any], known: Collection[str]) -> list[str]:
    return [name for name, said in value.items() if name not in known and is_filled(said)]


def unread_inside(message: Mapping[str, Any]) -> list[str]:
    """Return the keys of a message's parts and calls that nobody reads, each with what it is a key of."""
    content, calls = message.get("content"), message.get("tool_calls") or []
    parts = [part for part in content if isinstance(part, dict)] if type(content) is list else []
    made = [call for call in (*calls, message.get("function_call")) if isinstance(call, dict)]
    called = [
        part for call in made for part in (call, call.get("function")) if isinstance(part, dict)
    ]
    return [f"content.{name}" for part in parts for name in _others(part, OF_A_PART)] + [
        f"tool_calls.{name}" for part in called for name in _others(part, OF_A_CALL)
    ]


def is_learnt(message: Mapping[str, Any], where: str) -> bool:
    """Return whether an answer is learnt; raises ValueError for a weight that is neither 0 nor 1."""
    weight = message.get("weight")
    if weight not in (None, 0, 1):
        raise ValueError(f"{where} has weight {weight!r}, expected 0 or 1")
    return weight != 0
