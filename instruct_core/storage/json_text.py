"""
What JSON says, read so that whatever is wrong with a text is a ValueError, a thousand brackets too.

    parse_json('{"a": 1, "a": 2}')      # RepeatedKeyError
    loose_json('{"a": 1, "a": 2}')      # {"a": 2}, as programs read what programs wrote
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from typing import Any


class RepeatedKeyError(ValueError):
    """JSON in which a key stands twice in one object: nobody can tell which of them is meant."""


class NestedError(ValueError):
    """JSON with more brackets in each other than Python follows."""


def parse_json(text: str | bytes) -> Any:
    """Return what JSON says; raises ValueError for none, RepeatedKeyError and NestedError."""
    return _parsed(text, _each_once)


def loose_json(text: str | bytes) -> Any:
    """Return what JSON says, of a key that stands twice the last; raises ValueError, and NestedError."""
    return _parsed(text, None)


def _parsed(text: str | bytes, pairs: Callable[[list[tuple[str, Any]]], Any] | None) -> Any:
    try:
        return json.loads(text, object_pairs_hook=pairs)
    except RecursionError:
        raise NestedError("nested too deeply") from None


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) < len(pairs):
        [(key, _)] = Counter(key for key, _ in pairs).most_common(1)
        raise RepeatedKeyError(f"the key {key!r} stands twice in one object")
    return document
