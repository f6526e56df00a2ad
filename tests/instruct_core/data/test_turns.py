"""Chats of every shape become the same turns; what is left out of one is counted."""

from __future__ import annotations

import json
import math
from datetime import datetime
from functools import reduce
from pathlib import Path
from typing import Any

import pytest

from instruct_core.data.columns import detect_columns, parse_columns
from instruct_core.data.shard_plan import ShardPlan, scan
from instruct_core.data.sources import Source
from instruct_core.data.turns import Chat, Turn, ordered

SYSTEM, USER, BOT = Turn("system", "Be brief."), Turn("user", "Hi"), Turn("assistant", "Hello.")
HI = [USER, BOT]
MESSAGES = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]
SHAREGPT = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello."}]
CALL = {"name": "add", "arguments": {"a": 1}}
NO_WORD = "has NaN or Infinity, which JSON has no word for"
NOT_JSON = (
    ({"a": float("nan")}, NO_WORD), ({"a": [-math.inf]}, NO_WORD), ('{"a": NaN}', NO_WORD),
    ({"a": datetime(2026, 1, 1)}, "cannot be written as JSON: .*datetime"),
    (reduce(lambda inner, _: [inner], range(5000), 1), "is nested too deeply"),
)  # fmt: skip
AS_OPENAI = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}

TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}


def message(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


@pytest.mark.parametrize(
    ("record", "turns"),
    [
        ({"messages": MESSAGES}, HI),
        ({"conversations": SHAREGPT}, HI),
        ({"conversation": MESSAGES}, HI),
        ({"conversations": MESSAGES, "id": "a"}, HI),
        ({"messages": json.dumps(MESSAGES)}, HI),
        ({"messages": [message("human", "Hi"), message("gpt", "Hello.")]}, HI),
        ({"messages": [message("User", "Hi"), message("model", "Hello.")]}, HI),
        ({"messages": [message("developer", "Be brief."), *MESSAGES]}, [SYSTEM, *HI]),
        ({"conversations": [{"from": "system", "value": "Be brief."}, *SHAREGPT]}, [SYSTEM, *HI]),
        ({"conversations": SHAREGPT, "system": "Be brief."}, [SYSTEM, *HI]),
        ({"messages": MESSAGES, "system_prompt": ""}, HI),
        ({"system_prompt": "Be brief.", "question": "Hi", "response": "Hello."}, [SYSTEM, *HI]),
        ({"instruction": "Hi", "output": "Hello.", "system": "Be brief."}, [SYSTEM, *HI]),
        ({"prompt": "Hi", "completion": "Hello."}, HI),
        ({"prompt": MESSAGES[:1], "completion": MESSAGES[1:]}, HI),
        ({"prompt": MESSAGES[:1], "response": "Hello."}, HI),
        ({"prompt": [message("system", "Be brief."), MESSAGES[0]], "completion": "Hello."},
         [SYSTEM, *HI]),
        ({"messages": [message("user", [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]),
                       MESSAGES[1]]},
         [Turn("user", "a\nb"), BOT]),
        ({"messages": [MESSAGES[0], message("assistant", None, tool_calls=[AS_OPENAI]),
                       message("tool", "3", tool_call_id="c1"), MESSAGES[1]]},
         [USER, Turn("assistant", "", calls=(CALL,)), Turn("tool", "3"), BOT]),
        ({"messages": [MESSAGES[0], message("assistant", "Hm.", weight=0), MESSAGES[0], MESSAGES[1]]},
         [USER, Turn("assistant", "Hm.", learnt=False), *HI]),
        ({"conversations": [m | s for m, s in zip(MESSAGES, SHAREGPT, strict=True)]}, HI),
        ({"messages": [m | dict.fromkeys(s) for m, s in zip(MESSAGES, SHAREGPT, strict=True)]}, HI),
        ({"messages": [s | dict.fromkeys(m) for m, s in zip(MESSAGES, SHAREGPT, strict=True)]}, HI),
        ({"conversations": [SHAREGPT[0], SHAREGPT[1] | {"weight": 0}, *SHAREGPT]},
         [USER, BOT._replace(learnt=False), *HI]),
        ({"conversations": [SHAREGPT[0], {"from": "function_call", "value": json.dumps(CALL)},
                            {"from": "observation", "value": "3"}, SHAREGPT[1]]},
         [USER, Turn("assistant", "", calls=(CALL,)), Turn("tool", "3"), BOT]),
        ({"messages": [MESSAGES[0], message("Tool_Call", json.dumps([CALL, AS_OPENAI]), weight=0),
                       message("tool", "3"), MESSAGES[1]]},
         [USER, Turn("assistant", "", calls=(CALL, CALL), learnt=False), Turn("tool", "3"), BOT]),
        ({"messages": [MESSAGES[0], message("tool_call", "Hm.", tool_calls=[AS_OPENAI]), MESSAGES[1]]},
         [USER, Turn("assistant", "Hm.\n\nHello.", calls=(CALL,))]),
        ({"instruction": "Hi", "output": "Hello.", "history": [["Hi", "Hello."]]}, [*HI, *HI]),
        ({"prompt": "Hi", "answer": "Hello.", "system": "Be brief.", "history": '[["Hi", "Hello."]]'},
         [SYSTEM, *HI, *HI]),
        ({"question": "Hi", "answer": "Hello.", "history": MESSAGES}, [*HI, *HI]),
        ({"instruction": "Hi", "output": "Hello.", "history": [["Hi", "Hello."]], "input": "t"},
         [*HI, USER._replace(input="t"), BOT]),
        ({"messages": MESSAGES, "tools": [TOOL]}, [Turn("system", "", tools=(TOOL,)), *HI]),
        ({"conversations": SHAREGPT, "system": "Be brief.", "tools": json.dumps([TOOL["function"]])},
         [SYSTEM._replace(tools=(TOOL,)), *HI]),
        ({"messages": MESSAGES, "functions": [TOOL["function"]]},
         [Turn("system", "", tools=(TOOL,)), *HI]),
    ],
)  # fmt: skip
def test_shape_is_read_as_turns(record: dict[str, Any], turns: list[Turn]) -> None:
    assert detect_columns([record]).to_chat(record).turns == tuple(turns)


@pytest.mark.parametrize(
    ("beside", "problem"),
    [
        ({"history": "before"}, "column history is a text, expected a list of pairs"),
        ({"history": "[1"}, "column history is a text, and no JSON"),
        ({"history": "[" * 9999 + "]" * 9999}, "column history is a text, and no JSON"),
        ({"history": [["a"]]}, "column history, entry 1 is no question with its answer"),
        ({"history": [["a", "b"], ["a", None]]}, "column history, entry 2 is no question"),
        ({"history": [["a", " "]]}, "column history, entry 1 is no question"),
        ({"history": ["a", "b"]}, "column history, entry 1 is no question"),
        ({"history": [{"role": "user"}]}, "column history, message 1: content is missing"),
        ({"tools": {"name": "add"}}, "column tools is an object, expected a list of tools"),
        ({"tools": ["add"]}, "column tools, entry 1 is no function with a name"),
        ({"tools": [{"function": {}}]}, "column tools, entry 1 is no function with a name"),
        ({"tools": [{"name": "\ud800"}]}, "column tools is not valid UTF-8"),
        ({"history": [MESSAGES[0]], "input": "t"},
         "column history has two questions in a row, and an input that belongs to one of them"),
        ({"instruction": MESSAGES[:1], "input": "t"}, "column input is filled, and is not read where"),
        ({"output": MESSAGES[1:], "input": "t"}, "column input is filled, and is not read where"),
        ({"instruction": MESSAGES[:1], "history": [["a", "b"]]}, "column history is filled, and is not"),
    ],
)  # fmt: skip
def test_what_stands_beside_a_question_and_is_none_is_named(
    beside: dict[str, Any], problem: str
) -> None:
    record = {"instruction": "Hi", "output": "Hello.", **beside}

    with pytest.raises(ValueError, match=problem):
        detect_columns([record]).to_chat(record)


@pytest.mark.parametrize("column", ["conversations", "chat"])
@pytest.mark.parametrize("messages", [MESSAGES, SHAREGPT, json.dumps(SHAREGPT)])
def test_chat_that_is_named_is_read_in_any_dialect(column: str, messages: Any) -> None:
    columns = parse_columns(f"messages={column},system=rules")

    chat = columns.to_chat({column: messages, "rules": "Be brief."})

    assert chat.turns == (SYSTEM, *HI)


@pytest.mark.parametrize(
    ("turns", "chat"),
    [
        ([*HI, USER], Chat((USER, BOT), has_open_end=True)),
        ([*HI, Turn("tool", "3")], Chat((USER, BOT), has_open_end=True)),
        ([BOT, *HI], Chat((USER, BOT), has_open_start=True)),
        ([SYSTEM, BOT, Turn("tool", "3"), *HI], Chat((SYSTEM, USER, BOT), has_open_start=True)),
        ([USER, USER, BOT], Chat((Turn("user", "Hi\n\nHi"), BOT))),
        ([USER, BOT, BOT], Chat((USER, Turn("assistant", "Hello.\n\nHello.")))),
        ([Turn("system", " "), *HI], Chat((USER, BOT))),
    ],
)
def test_rule_brings_turns_into_order(turns: list[Turn], chat: Chat) -> None:
    assert ordered(turns) == chat


@pytest.mark.parametrize(
    ("turns", "problem"),
    [
        (
            [SYSTEM, SYSTEM, *HI],
            r"has roles \['system', 'system', 'user', 'assistant'\], .*one system",
        ),
        ([*HI, SYSTEM, *HI], "at most one system, which is first"),
        ([USER, Turn("tool", "3"), BOT], "tool after assistant"),
        ([BOT], "an assistant after a user"),
        ([USER], "an assistant after a user"),
        ([USER, Turn("assistant", " ")], "has an answer that is empty: no response to learn"),
        ([*HI, USER, Turn("assistant", ""), *HI], "has an answer that is empty"),
        ([Turn("user", " "), BOT], "has a question that is empty"),
        ([USER, BOT._replace(learnt=False)], "has no answer of weight 1"),
        (
            [USER, BOT._replace(learnt=False), BOT],
            "two answers in a row, one of weight 0 and one to be",
        ),
    ],
)
def test_chat_without_an_order_is_refused(turns: list[Turn], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        ordered(turns)


@pytest.mark.parametrize(
    ("messages", "problem"),
    [
        ([message("narrator", "Hi")], "message 1 has role 'narrator', expected system, developer"),
        ([{"content": "Hi"}], "message 1 has role None"),
        ([{"role": "user"}], "message 1: content is missing"),
        ([MESSAGES[0], message("assistant", None)], "message 2: content is null, expected text"),
        ([message("user", [{"type": "image_url", "image_url": {}}])], "a part of type image_url"),
        ([message("user", "Hi", images=["a.png"])], "message 1 has images, which is not read"),
        ([MESSAGES[0], message("assistant", "a", reasoning_content="b")], "has reasoning_content"),
        ([message("user", "Hi", context="Here.")], "message 1 has context, which is not read"),
        ([MESSAGES[0], message("assistant", "a", train=False)], "has train False, .*: say weight 0"),
        ([{"from": "gpt", "value": "a", "loss": 0}], "message 1 has loss 0, .*: say weight 0"),
        ([{"from": "gpt", "value": "a", "train_on_turn": 0}], "has train_on_turn 0.*: say weight"),
        ([message("assistant", "a", mask=0)], "message 1 has mask 0, .*: say weight 0"),
        ([message("assistant", "a", loss_mask=0)], "message 1 has loss_mask 0, .*: say weight 0"),
        ([message("assistant", "a", train_detail=[{"train": False}])], "has train_detail, which is not"),
        ([{"from": "gpt", "value": "a", "tool_calls": [1]}], "has tool_calls beside from"),
        ([message("assistant", None, tool_calls=[{"name": "add", "parameters": {"a": 1}}])],
         "tool_calls has add with parameters, which is not read, and without arguments"),
        ([message("assistant", None, function_call={"name": "add", "input": "1", "arguments": None})],
         "tool_calls has add with input, which is not read, and without arguments"),
        ([message("user", [{"type": "text", "text": "Hi", "image": "a.png"}])], "a part with image, "),
        ([message("user", [{"text": "Hi", "image_url": "a.png"}])], "a part with image_url, which"),
        ([message("user", "\ud800")], "message 1: content is not valid UTF-8"),
        ([message("assistant", None, tool_calls=[{"function": {}}])], "without a function's name"),
        ([MESSAGES[0], message("assistant", "a", weight=0.5)], "has weight 0.5, expected 0 or 1"),
        ([message("user", {"text": "Hi"})], "message 1: content is an object, expected text"),
        ([message("user", float("nan"))], "message 1: content is NaN, expected text"),
        ([message("user", "Hi", **{"from": "gpt"})], "message 1 has both role and from, and they differ"),
        ([message("user", "Hi", **{"from": "Ann"})], "message 1 has both role and from, and they differ"),
        ([message("user", "Hi", value="Ho")], "message 1 has both content and value, and they differ"),
        ([{"from": "human", "value": "Hi", "images": ["a"]}], "message 1 has images, which is not read"),
        ([{"from": "gpt", "value": "Hi", "weight": 2}], "message 1 has weight 2, expected 0 or 1"),
        ([{"from": "human", "value": None}], "message 1: value is null, expected text"),
        ([{"from": "function_call", "value": "add(1)"}], "calls a tool, and its text is no JSON"),
        ([{"from": "function_call", "value": "[1]"}], "message 1: tool_calls has an entry without a"),
        ([{"from": "function_call", "value": '{"name": "a", "input": 1}'}], "has a with input, which is"),
        ([message("tool_call", '{"name": "a", "name": "b"}')], "message 1: the key 'name' stands twice"),
        ([MESSAGES[0], message("tool_call", "[]")], "has an answer that is empty"),
        ("[1", "is a text, and no JSON"),
        ('[{"role": "user", "content": "Hi", "role": "tool"}]', "the key 'role' stands twice"),
        ([message("assistant", "", tool_calls=[{"name": "add", "arguments": '{"a": 1, "a": 2}'}])],
         "message 1: arguments of add: the key 'a' stands twice in one object"),
        *(([message("assistant", "", tool_calls=[{"name": "add", "arguments": arguments}])],
           f"message 1: arguments of add {said}") for arguments, said in NOT_JSON),
        ([1], "message 1 is a number, expected an object"),
    ],
)  # fmt: skip
def test_message_that_cannot_be_read_is_named(messages: Any, problem: str) -> None:
    columns = parse_columns("messages=messages")

    with pytest.raises(ValueError, match=f"column messages.*{problem}"):
        columns.to_chat({"messages": messages})


def test_flag_of_learning_is_no_mistake_where_the_weight_says_it_or_nobody_would_learn() -> None:
    user = {"from": "human", "value": "Hi", "train_on_turn": False, "mask": True}
    answer = {"from": "gpt", "value": "Hello.", "train_on_turn": False, "weight": 0}

    chat = parse_columns("messages=messages").to_chat({"messages": [user, answer, *SHAREGPT]})

    assert [turn.learnt for turn in chat.turns if turn.role == "assistant"] == [False, True]


def test_what_is_left_out_of_chats_is_counted(tmp_path: Path) -> None:
    chats = [MESSAGES, [*MESSAGES, MESSAGES[0]], [MESSAGES[1], *MESSAGES], [*MESSAGES, MESSAGES[0]]]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in chats))

    plan = scan(Source("rows", "rows", [str(path)]), None, None, skip_bad_rows=False)

    assert (plan.num_open_ends, plan.num_open_starts, plan.bad_rows) == (2, 1, [])
    assert plan.num_duplicates == 3


def test_rows_with_a_marker_of_a_picture_or_sound_are_counted(tmp_path: Path) -> None:
    marked = ["<image>\nWhat is it?", "See <image_1> <|video_pad|>", "<|audio_1|>"]
    plain = ["An image > a video", "<image src='a.png'>", "List<images>", "< image >"]
    rows = [{"instruction": text, "output": "A cat."} for text in (*marked, *plain)]
    rows.append({"instruction": "Draw.", "output": "<image>"})
    paths = [tmp_path / "rows.jsonl", tmp_path / "plain.jsonl"]
    paths[0].write_text("".join(json.dumps(row) + "\n" for row in rows))
    paths[1].write_text(json.dumps(rows[3]) + "\n")

    with_some, without = (
        scan(Source("rows", "rows", [str(path)]), None, None, skip_bad_rows=False) for path in paths
    )

    assert with_some.num_markers == 4
    assert "num_markers" not in without.to_document()
    again = ShardPlan.from_document(with_some.to_document(), "plan.json")
    assert again.num_markers == 4


def test_keys_of_messages_that_nobody_reads_are_counted(tmp_path: Path) -> None:
    user, answer = (
        message("user", "Hi", name="Ann", id=7, train=True),
        message("assistant", "Hello."),
    )
    chats = [
        [user, answer],
        [user, answer | {"name": "", "end": None}, message("user", "?", name="B")],
        [
            message("user", [{"type": "text", "text": "Hi", "cache": {"ttl": 5}, "image": None}]),
            message("assistant", "", tool_calls=[AS_OPENAI | {"index": 0, "signature": "x"}]),
        ],
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"n": 1, "messages": chat}) + "\n" for chat in chats))

    plan = scan(Source("rows", "rows", [str(path)]), None, None, skip_bad_rows=False)

    assert plan.reading == (
        "messages=messages; not read: n, messages.name (in 3), messages.id (in 2), "
        "messages.train (in 2), messages.content.cache (in 1), messages.tool_calls.signature (in 1)"
    )
