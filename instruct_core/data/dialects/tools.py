"""
The tools that an assistant may call, in a column beside a chat, as OpenAI's files have them.

    tools_of([{"type": "function", "function": {"name": "add", "parameters": {}}}], "column tools")

A list of bare functions, and either as JSON in a text, is the same: templates get OpenAI's form.

Source: OpenAI's API reference, "Create chat completion" (tools; functions, which came before).
"""

from __future__ import annotations

from typing import Any

from instruct_core.data.values import check_json, is_filled, listed


def tools_of(value: Any, what: str) -> tuple[dict[str, Any], ...]:
    """
    Return the tools; none where the field is empty.

    Args:
        value: Of the field.
        what: Which field it is, for errors.

    Raises:
        ValueError: It is no list of functions that have names.
    """
    if not is_filled(value):
        return ()
    tools = []
    for number, entry in enumerate(listed(value, what, "tools"), start=1):
        is_wrapped = isinstance(entry, dict) and isinstance(entry.get("function"), dict)
        function = entry["function"] if is_wrapped else entry
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise ValueError(f"{what}, entry {number} is no function with a name")
        tools.append(entry if is_wrapped else {"type": "function", "function": function})
    check_json(tools, what)
    return tuple(tools)
