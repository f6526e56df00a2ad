"""Rows that are taken the short way are noted, and written, as the long way does it."""

from __future__ import annotations

import json
from array import array
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instruct_core.data.alpaca import ALPACA, ALPACA_2, Alpaca
from instruct_core.data.columns import Columns, parse_columns
from instruct_core.data.drafts import BLOCK_ROWS, Draft
from instruct_core.data.record import Record
from instruct_core.data.seen_rows import Notes, RowReader
from instruct_core.data.sources import Source
from instruct_core.data.template import Segment
from instruct_core.data.unread import ColumnCheck

PLAIN = {"instruction": "Add.", "input": "1, 2", "output": "3"}
TEXTS = [
    "a", "x < y", "Zürich", "def f():\n    return 1", "a \n", "", " ", "\n", " a", "  a", "\n  a",
    "\ta", "\u2028a", "\x1fa", "a\x1f", "a\r\nb", "a\r\n", "\ra", "a\rb", "<image>", "a <|video_pad|>",
    "\ud83d", "### Response:\n", "<|endoftext|>", "\x00",
]  # fmt: skip
OTHERS = [None, 0, 3, False, True, float("nan"), [], {}, ["a"], {"a": "b"}]
VALUES = st.sampled_from(TEXTS + OTHERS)
NAMES = [
    "instruction",
    "input",
    "output",
    "system",
    "context",
    "label",
    "history",
    "image",
    "",
    "more",
]
RECORDS = st.one_of(
    st.builds(lambda changes: PLAIN | changes, st.dictionaries(st.sampled_from(NAMES), VALUES)),
    st.dictionaries(st.sampled_from(NAMES), VALUES),
    st.sampled_from([None, "a", ["a"], 3]),
)
COLUMNS = [
    None,
    parse_columns("instruction=instruction,output=output"),
    parse_columns("instruction=instruction,input=input,output=output,system=system"),
]
TEMPLATES = [("</s>", [], ALPACA), ("</s>", ["<s>"], ALPACA_2)]


class LongWay(Alpaca):
    """The same headings for rows that are all looked at."""

    def exchange(self, question: str, context: str, answer: str) -> None:
        """Return None."""


class Kept:
    """Keeps blocks as they are written."""

    def __init__(self) -> None:
        self.blocks: list[tuple[Sequence[Sequence[Segment]], list[int]]] = []

    def write(self, block: Sequence[Sequence[Segment]], hashes: array[int]) -> Draft:
        self.blocks.append((block, hashes.tolist()))
        return Draft(0, 0, len(block), 0, 0)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    path = tmp_path_factory.mktemp("source") / "rows.jsonl"
    path.write_text(json.dumps(PLAIN) + "\n")
    return Source("rows", "rows", [str(path)])


def read(
    source: Source, columns: Columns | None, template: Alpaca, values: Sequence[Any]
) -> tuple[Notes, Kept]:
    kept = Kept()
    reader = RowReader(ColumnCheck(source, columns), template, kept)  # type: ignore[arg-type]
    for line, value in enumerate(values, start=1):
        reader.take(Record("rows.jsonl", line, 0, line + 1, value))
    return reader.notes(), kept


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("columns", COLUMNS)
@pytest.mark.parametrize("field", ["instruction", "input", "output", "system", ""])
def test_field_of_any_kind_is_noted_alike_by_either_way(
    source: Source, field: str, columns: Columns | None, template: tuple[Any, ...]
) -> None:
    for value in TEXTS + OTHERS:
        rows = [PLAIN, PLAIN | {field: ""}, PLAIN | {field: value}]

        short = read(source, columns, Alpaca(*template), rows)
        long = read(source, columns, LongWay(*template), rows)

        assert repr(short[0]) == repr(long[0])
        assert short[1].blocks == long[1].blocks


@settings(deadline=None)
@given(st.lists(RECORDS, max_size=12), st.sampled_from(COLUMNS), st.sampled_from(TEMPLATES))
def test_rows_of_any_fields_are_noted_alike_by_either_way(
    source: Source, values: list[Any], columns: Columns | None, template: tuple[Any, ...]
) -> None:
    short = read(source, columns, Alpaca(*template), values)
    long = read(source, columns, LongWay(*template), values)

    assert repr(short[0]) == repr(long[0])
    assert short[1].blocks == long[1].blocks


def test_rows_as_most_are_go_the_short_way(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(ColumnCheck, "chat", lambda _, record: asked.append(record.value))
    check = ColumnCheck(source, None)
    check.note(PLAIN)
    reader = RowReader(check, Alpaca("</s>"))

    for n in range(BLOCK_ROWS + 1):
        reader.take(Record("rows.jsonl", n, 0, n + 1, PLAIN | {"output": f"{n} Zürich \n"}))

    assert not asked
    assert len(reader.notes().hashes) == BLOCK_ROWS + 1
