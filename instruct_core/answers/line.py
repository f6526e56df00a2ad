"""
A line of the answers: the question's row as it is, and the answer beside it.

    refuse_taken(row, "answer")                    # ValueError where a name is taken
    line_of(row, answer, "answer")                 # '{"prompt": "Hi.", "answer": "Hello.", ...}\n'

A row's own columns come out as they went in. What JSON has no word for gets one: NaN and infinities
are null, times are written as ISO 8601 has them, decimal numbers as text, bytes as base64, and half of
a surrogate pair is escaped.
"""

from __future__ import annotations

import base64
import json
import math
from datetime import date, time
from typing import Any, NamedTuple

FACTS = ("finish_reason", "new_tokens")  # columns that are added beside the answer's own
# finish_reason of a prompt that leaves the model no room to answer, and of one that asks nothing.
TOO_LONG, EMPTY = "too_long", "empty"


class Answered(NamedTuple):
    """The answer to one prompt, up to where the model begins an instruction of its own."""

    text: str
    finish_reason: str
    num_new_tokens: int


def refuse_taken(record: dict[str, Any], answer_column: str) -> None:
    """Refuse a row that has a column of ours already; raises ValueError, without the row's place."""
    if answer_column in record:
        raise ValueError(
            f"it has a column {answer_column} already; put the answer elsewhere with "
            "--answer-column NAME"
        )
    for name in FACTS:
        if name in record:
            raise ValueError(
                f"it has a column {name} already, which is written beside every answer; rename it in "
                "the source, or leave it out"
            )


def line_of(record: dict[str, Any], answer: Answered, answer_column: str) -> str:
    """Return a row with its answer as a line of JSON."""
    added = (answer.text, answer.finish_reason, answer.num_new_tokens)
    line = record | dict(zip((answer_column, *FACTS), added, strict=True))
    try:
        text = json.dumps(line, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError):
        text = json.dumps(_plain(line), ensure_ascii=False, allow_nan=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        text = json.dumps(_plain(line), allow_nan=False)
    return text + "\n"


def _plain(value: Any) -> Any:
    """Return a value in JSON's words."""
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, date | time):  # a datetime is a date
        return value.isoformat()
    return value if value is None or isinstance(value, bool | int | str) else str(value)
