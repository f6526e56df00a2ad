"""Datasets of three shapes become the same rows; everything else is named."""

from __future__ import annotations

from typing import Any

import pytest

from instruct_core.data.columns import ALPACA, CHAT, DOLLY, detect_columns, parse_columns
from instruct_core.data.template import Segment
from instruct_core.data.templates import BY_HEADINGS
from instruct_core.data.turns import Exchange
from instruct_core.errors import ConfigError

USER, BOT, SYSTEM = "user", "assistant", "system"


def turns(*pairs: tuple[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in pairs]}


@pytest.mark.parametrize(
    ("record", "columns"),
    [
        ({"instruction": "a", "input": "", "output": "b", "text": "x"}, ALPACA),
        ({"instruction": "a", "context": "c", "response": "b", "category": "x"}, DOLLY),
        (turns((USER, "a"), (BOT, "b")), CHAT),
    ],
)
def test_shape_is_detected(record: dict[str, Any], columns: Any) -> None:
    assert detect_columns([None, 3, record]) == columns


def test_name_that_begins_with_a_blank_is_shown_with_it() -> None:
    with pytest.raises(ConfigError, match=r"found: instruction, ' output'\. Name them"):
        detect_columns([{"instruction": "Hi", " output": "Hello."}])


def test_unknown_shape_names_the_columns_it_found() -> None:
    with pytest.raises(ConfigError, match=r"found: query, reply. Name them: --columns"):
        detect_columns([{"query": "a", "reply": "b"}])


def test_named_columns_are_used() -> None:
    columns = parse_columns("instruction=question,output=answer")

    assert columns.to_chat({"question": "q", "answer": "a"}).turns == Exchange("q", "", "a").turns


@pytest.mark.parametrize(
    "text",
    [
        "",
        "instruction=a",
        "output=b,instruction=",
        "a=b,c=d",
        "output=a,output=b,instruction=c",
        "instruction=a,output=a",
    ],
)
def test_bad_columns_flag_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--columns must (be|name)"):
        parse_columns(text)


def test_conversation_reads_like_rows_one_after_another() -> None:
    record = turns((SYSTEM, "Be kind."), (USER, "a"), (BOT, "b"), (USER, "c"), (BOT, "d"))

    segments = BY_HEADINGS.segments(CHAT.to_chat(record).turns)

    end = Segment("<|endoftext|>", is_learnt=True, is_special=True)
    assert segments == [
        Segment("### Instruction:\nBe kind.\n\na\n\n### Response:\n"),
        Segment("b", is_learnt=True),
        end,
        Segment("\n\n### Instruction:\nc\n\n### Response:\n"),
        Segment("d", is_learnt=True),
        end,
    ]


@pytest.mark.parametrize(
    ("record", "problem"),
    [
        ([1], "the row is a list, expected an object"),
        ({"instruction": "a", "input": ""}, "column output is missing"),
        ({"instruction": "a", "output": "  "}, "column output is empty: no response to learn"),
        ({"instruction": "", "output": "b"}, "column instruction is empty"),
        ({"instruction": 3, "output": "b"}, "column instruction is a number, expected text"),
        ({"instruction": "a", "input": [], "output": "b"}, "column input is a list, expected text"),
        ({"instruction": "a", "output": "\ud800"}, "column output is not valid UTF-8"),
    ],
)
def test_bad_record_is_refused(record: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        ALPACA.to_chat(record)


@pytest.mark.parametrize(
    "record",
    [turns((BOT, "a")), turns((USER, "a")), turns((USER, "a"), (USER, "b")), {"messages": "hi"},
     turns((USER, "a"), (BOT, None)), {}, {"messages": []}, {"messages": "[1"}, {"messages": ["a"]}],
)  # fmt: skip
def test_conversation_that_is_none_is_refused(record: Any) -> None:
    with pytest.raises(ValueError, match=r"column (messages|content)"):
        CHAT.to_chat(record)


def test_column_without_a_name_is_no_input() -> None:
    columns = parse_columns("instruction=q,output=a")

    assert columns.to_chat({"": "0", "q": "x", "a": "y"}).turns == Exchange("x", "", "y").turns


@pytest.mark.parametrize("nothing", [None, float("nan")])
def test_null_input_is_an_empty_one(nothing: float | None) -> None:
    row = {"instruction": "a", "input": nothing, "output": "b"}

    assert ALPACA.to_chat(row).turns[0].input == ""
