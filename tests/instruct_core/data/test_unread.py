"""Every column of a source is read, stops its row, or is named as not read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from instruct_core.data.columns import detect_columns, detect_questions, parse_columns
from instruct_core.data.ranges import first_records
from instruct_core.data.remake import command_that_makes
from instruct_core.data.shard_plan import ShardPlan, scan
from instruct_core.data.sources import Source
from instruct_core.data.template import text_of
from instruct_core.data.templates import BY_HEADINGS
from instruct_core.data.turns import Exchange
from instruct_core.data.unread import ColumnCheck
from instruct_core.errors import BadRowError, ConfigError
from instruct_core.storage.store import Store

PAIR = {"instruction": "a", "output": "b"}


def source_of(folder: Path, *rows: Any) -> Source:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Source("rows", "rows", [str(path)])


def plan_of(folder: Path, *rows: Any, columns: str = "", skip_bad_rows: bool = False) -> ShardPlan:
    given = parse_columns(columns) if columns else None
    return scan(source_of(folder, *rows), given, None, skip_bad_rows)


def text(*fields: str) -> str:
    return text_of(BY_HEADINGS.segments(Exchange(*fields).turns))


def texts_of(plan: ShardPlan) -> list[str]:
    return [text_of(row or []) for row in plan.rows(0, BY_HEADINGS)]


@pytest.mark.parametrize(
    ("records", "columns"),
    [
        ([{"instruction": "a", "input": "t", "response": "b"}], "instruction,input,response"),
        ([{"instruction": "a", "context": "t", "output": "b"}], "instruction,context,output"),
        ([PAIR, {**PAIR, "context": "t"}], "instruction,context,output"),
        ([{**PAIR, "context": "", "input": "t"}], "instruction,input,output"),
        ([{**PAIR, "context": "t", "input": ""}], "instruction,context,output"),
        ([{"prompt": "a", "completion": "b", "context": "t"}], "prompt,context,completion"),
        ([{"input": "a", "output": "b", "context": "t"}], "input,context,output"),
        ([{"question": "a", "context": "t", "answer": "b"}], "question,context,answer"),
        ([{"question": "a", "response": "b", "input": "t"}], "question,input,response"),
        (
            [{"instruction": None, "prompt": "a", "output": "b", "input": "t", "messages": None}],
            "prompt,input,output",
        ),
    ],
)
def test_input_is_read_from_the_column_that_has_it(records: list[Any], columns: str) -> None:
    assert ",".join(name for name in detect_columns(records) if name) == columns

    assert detect_columns(records).to_chat(records[-1]).turns == Exchange("a", "t", "b").turns


@pytest.mark.parametrize(
    "records",
    [
        [{"instruction": "Hi."}, {"instruction": "a", "context": "t"}],
        [{"prompt": "a", "context": "t"}],
        [{"question": "a", "input": "t"}],
        [{"instruction": "a", "context": "", "input": "t"}],
        [{"input": "a", "context": "t"}],
    ],
)
def test_question_is_asked_with_its_text(records: list[Any]) -> None:
    assert detect_questions(records).to_question(records[-1]).turns == Exchange("a", "t").turns


@pytest.mark.parametrize(
    ("record", "name"),
    [
        ({**PAIR, "input": "t", "context": "u"}, "context"),
        ({**PAIR, "document": "t"}, "document"),
        ({**PAIR, "System": "Be kind."}, "System"),
        ({**PAIR, "tools": [{"name": "f"}]}, "tools"),
        ({**PAIR, "images": ["a.png"]}, "images"),
        ({**PAIR, "response": "c"}, "response"),
        ({"instruction": "a", "prompt": "q", "output": "b"}, "prompt"),
        ({"question": "a", "choices": ["x", "y"], "answer": "x"}, "choices"),
        ({"prompt": "a", "completion": "b", "label": False}, "label"),
        (
            {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
             "tools": [{"name": "f"}]},
            "tools",
        ),
    ],
)  # fmt: skip
def test_row_with_a_field_that_nobody_reads_is_bad(
    tmp_path: Path, record: dict[str, Any], name: str
) -> None:
    good = {key: value for key, value in record.items() if key != name}

    with pytest.raises(BadRowError, match=rf"jsonl:2 .*{name} (is|are) .*not read.*--columns"):
        plan_of(tmp_path, good, record, good)

    plan = plan_of(tmp_path, good, record, good, skip_bad_rows=True)
    assert [bad["where"].rpartition(":")[2] for bad in plan.bad_rows] == ["2"]
    assert [row is None for row in plan.rows(0, BY_HEADINGS)] == [False, True, False]


@pytest.mark.parametrize("empty", [None, "", "  ", [], {}, float("nan"), "[]"])
def test_field_that_is_empty_stops_no_row(tmp_path: Path, empty: Any) -> None:
    plan = plan_of(tmp_path, {**PAIR, "history": empty, "system": empty})

    assert plan.unread == ["history", "system"]
    assert plan.reading.endswith("; not read: history, system")


def test_field_that_comes_late_is_noticed(tmp_path: Path) -> None:
    rows = [PAIR] * 150

    assert texts_of(plan_of(tmp_path, *rows, {**PAIR, "input": "t"}))[-1] == text("a", "t", "b")
    with pytest.raises(BadRowError, match=r"jsonl:151 .*column context is filled"):
        plan_of(tmp_path, *rows, {**PAIR, "context": "t"})


def test_columns_that_are_no_field_are_named_as_not_read(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, {"id": 7, **PAIR}, {**PAIR, "source": "x", "label": True})

    assert plan.reading == "instruction=instruction,output=output; not read: id, source, label"


def test_who_names_the_columns_leaves_the_others_out_knowingly(tmp_path: Path) -> None:
    rows = [{**PAIR, "history": [["q", "a"]], "input": "t"}, {**PAIR, "label": False}]

    plan = plan_of(tmp_path, *rows, columns="instruction=instruction,output=output")

    assert not plan.bad_rows
    assert plan.unread == ["history", "input", "label"]
    assert texts_of(plan) == [text("a", "", "b")] * 2


def test_plan_that_left_rows_out_does_not_fit_columns_given_by_hand(tmp_path: Path) -> None:
    source = source_of(tmp_path, PAIR, {**PAIR, "document": "t"})
    columns = parse_columns("instruction=instruction,output=output")

    skipping, knowingly = scan(source, None, None, True), scan(source, columns, None, True)

    assert skipping.still_fits(source, None, None, True, None)
    assert not skipping.still_fits(source, columns, None, True, None)
    assert skipping.changes_since(knowingly) == ["refused: [] -> ['document']"]
    assert not skipping.makes_same_parts(knowingly)


@pytest.mark.parametrize(("extra", "names_them"), [({}, True), ({"history": None}, False)])
def test_command_that_makes_a_set_again_refuses_the_same_rows(
    tmp_path: Path, extra: dict[str, Any], names_them: bool
) -> None:
    plan_of(tmp_path, {**PAIR, **extra}).save(Store(tmp_path))

    command = command_that_makes(Store(tmp_path))

    assert ("--columns instruction=instruction,output=output" in command) == names_them


def test_input_given_by_hand_that_no_row_has_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"input=contxt.*found: instruction, output, context"):
        plan_of(
            tmp_path,
            {**PAIR, "context": "t"},
            columns="instruction=instruction,input=contxt,output=output",
        )


def test_names_that_cannot_be_printed_are_written_out(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, {**PAIR, "\ud83d": 1, "": 2, "a\nb": 3, "x" * 500: 4})

    assert plan.unread == ["\\ud83d", "''", "'a\\nb'", "x" * 80]


def test_source_of_bad_rows_alone_says_what_is_wrong_with_the_first(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"no usable row: 2 read, .*jsonl:1\) is bad: column output"
    ):
        plan_of(tmp_path, {**PAIR, "output": ""}, {**PAIR, "output": 3}, skip_bad_rows=True)


def test_columns_of_questions_are_checked_as_well(tmp_path: Path) -> None:
    source = source_of(tmp_path, {"prompt": "a", "answer": "b"}, {"prompt": "a", "document": "t"})
    check = ColumnCheck(source, None, is_answered=False)
    good, bad = first_records(source.files)

    assert check.chat(good).turns == Exchange("a").turns
    with pytest.raises(ValueError, match="column document is filled, and is not read"):
        check.chat(bad)
    assert str(check.columns) == "instruction=prompt"
    assert check.unread == ["answer", "document"]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "Source rows has no rows"),
        (b"\n\n", "Source rows has no rows"),
        ('{"instruction": "a"}\n'.encode("utf-16"), "jsonl:1 cannot be used: not valid UTF-8 at byte 0"),
        (b'{"instruction": "a",\n"output": "b"}\n', "jsonl:1 cannot be used: not JSON"),
        (b'3\n{"query": "a"}\n', "jsonl:1 cannot be used: the row is a number, expected an object"),
        (b'{"query": "a"}\noops\n', "jsonl:2 cannot be used: not JSON"),
        (b'{"query": "a"}\n', "found: query. Name them"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("is_answered", [True, False])
def test_why_no_columns_were_found_is_said(
    tmp_path: Path, content: bytes, problem: str, is_answered: bool
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)

    with pytest.raises((BadRowError, ConfigError), match=problem):
        ColumnCheck(Source("rows", "rows", [str(path)]), None, is_answered)
