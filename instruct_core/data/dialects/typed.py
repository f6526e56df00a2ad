"""
Tools and calls as a file keeps them that has one type for all objects of a column.

    without_fill({"tools": [{"name": "add", "parameters": {"a": 1, "city": None}}]}, columns)
    # {"tools": [{"name": "add", "parameters": {"a": 1}}]}

In a parquet file each object has the keys of all others, and null in those that are not its own. A tool
or a call is written out with every key that it has, so a row would learn what only other rows say. As
JSON in a text nothing is filled in, and a null stays that somebody wrote.
"""

from __future__ import annotations

from typing import Any

from instruct_core.data.values import is_nan

CALLS = ("tool_calls", "function_call")  # of a message


def without_fill(row: dict[str, Any], columns: Any) -> dict[str, Any]:
    """
    Return a row without the keys of tools and calls that are null; itself where there are none.

    NaN is what some tables write for null.

    Args:
        row: Of a file with types.
        columns: Names of those that are read, with ``tools`` among them.
    """
    changed = {}
    for name in columns:
        value = row.get(name) if name else None
        if isinstance(value, list):
            bare = _bare(value) if name == columns.tools else _each(value)
            if bare is not value:
                changed[name] = bare
    return {**row, **changed} if changed else row


def _each(messages: list[Any]) -> list[Any]:
    bare = [_message(message) for message in messages]
    return messages if all(map(_is, bare, messages)) else bare


def _message(message: Any) -> Any:
    if not isinstance(message, dict):
        return message
    changed = {name: _bare(message[name]) for name in CALLS if message.get(name)}
    same = all(changed[name] is message[name] for name in changed)
    return message if same else {**message, **changed}


def _bare(value: Any) -> Any:
    """Return a value without keys that are null, however deep; itself where there are none."""
    if isinstance(value, dict):
        bare = {name: _bare(one) for name, one in value.items() if not _is_none(one)}
        same = len(bare) == len(value) and all(map(_is, bare.values(), value.values()))
        return value if same else bare
    if isinstance(value, list):
        entries = [_bare(one) for one in value]
        return value if all(map(_is, entries, value)) else entries
    return value


def _is_none(value: Any) -> bool:
    return value is None or is_nan(value)


def _is(one: Any, other: Any) -> bool:
    return one is other
