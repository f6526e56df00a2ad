"""
What a source writes into a field: text, nothing, or something else that is named.

    text_in({"output": 3}, "output")     # ValueError: column output is a number, expected text
"""

from __future__ import annotations

import json
import math
from typing import Any

from instruct_core.storage.json_text import RepeatedKeyError, parse_json


def text_in(record: dict[str, Any], column: str) -> str:
    """
    Return the text of a field.

    Raises:
        ValueError: It is missing, no text, or text that UTF-8 cannot write.
    """
    value = record.get(column)
    if not isinstance(value, str):
        if column not in record:
            raise ValueError(f"column {column} is missing")
        raise ValueError(f"column {column} is {a_type(value)}, expected text")
    return value if value.isascii() else checked(value, f"column {column}")


def checked(text: str, what: str) -> str:
    """Return a text that UTF-8 can write; raises ValueError for another, named as ``what``."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{what} is not valid UTF-8: lone surrogate at {error.start}") from None
    return text


def check_json(value: Any, what: str) -> None:
    """Refuse a value that cannot be written as JSON in UTF-8; raises ValueError, named as ``what``."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except ValueError:
        raise ValueError(f"{what} has NaN or Infinity, which JSON has no word for") from None
    except RecursionError:
        raise ValueError(f"{what} is nested too deeply") from None
    except TypeError as error:  # of a table: a date, bytes
        raise ValueError(f"{what} cannot be written as JSON: {error}") from None
    checked(text, what)


def listed(value: Any, what: str, expected: str) -> list[Any]:
    """
    Return a list, also where a table keeps it as JSON in a text.

    Args:
        value: Of the field.
        what: Which field it is, for errors.
        expected: Of what the list should be.

    Raises:
        ValueError: It is none.
    """
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = parse_json(value)
        except RepeatedKeyError as error:
            raise ValueError(f"{what}: {error}") from None
        except ValueError:
            raise ValueError(
                f"{what} is a text, and no JSON: expected a list of {expected}"
            ) from None
    if not isinstance(value, list):
        raise ValueError(f"{what} is {a_type(value)}, expected a list of {expected}")
    return value


def is_filled(value: Any) -> bool:
    """Return True if a field's value says something: NaN, as tables write no value, does not."""
    if isinstance(value, str):
        return value.strip() not in ("", "[]", "{}")
    return value is not None and value not in ([], {}) and not is_nan(value)


def json_type(value: Any) -> str:
    """Return the name of a value's type, as JSON has it."""
    names = {dict: "object", list: "list", str: "text", bool: "boolean", int: "number"}
    names |= {float: "number", type(None): "null"}
    return "NaN" if is_nan(value) else names.get(type(value), type(value).__name__)


def a_type(value: Any) -> str:
    """Return what a value is, for a sentence: an object, a list, null."""
    name = json_type(value)
    return name if name in ("null", "NaN", "bytes") else with_article(name)


def with_article(word: str) -> str:
    """Return a word with a or an before it."""
    return f"{'an' if word[:1].lower() in 'aeiou' else 'a'} {word}"


def without_blanks(text: str) -> str:
    """Return a text without its blanks and line breaks, for comparison."""
    return "".join(text.split())


def is_nan(value: Any) -> bool:
    """Return True for what tables write where they have no value."""
    return isinstance(value, float) and math.isnan(value)
