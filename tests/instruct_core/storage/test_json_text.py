"""JSON that nobody of us wrote: whatever is wrong with it, a reader has one error to catch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from instruct_core.storage.json_text import NestedError, RepeatedKeyError, loose_json, parse_json

DEEP = ["[" * 100_000, '{"a":' * 100_000, b"[" * 100_000]


@pytest.mark.parametrize("read", [parse_json, loose_json])
@pytest.mark.parametrize("text", [*DEEP, "", "{", b"\xff", '{"a": ' + "9" * 5000 + "}"])
def test_what_is_wrong_with_a_text_is_a_value_error(
    read: Callable[[str | bytes], Any], text: str | bytes
) -> None:
    with pytest.raises(ValueError) as refused:  # noqa: PT011  any, and no other error
        read(text)

    assert isinstance(refused.value, NestedError) == (text in DEEP)


def test_key_that_stands_twice_is_the_last_or_none() -> None:
    assert loose_json('{"a": 1, "a": 2}') == {"a": 2}
    with pytest.raises(RepeatedKeyError, match="the key 'a' stands twice"):
        parse_json('{"a": 1, "a": 2}')
