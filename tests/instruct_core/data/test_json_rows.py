"""Rows of JSON in every way they stand in a file, and what is wrong with those that are none."""

from __future__ import annotations

import io
import json
import re
from typing import Any

import pytest

from instruct_core.data import json_rows
from instruct_core.data.json_rows import cut_json, read_json
from instruct_core.data.record import FIRST, MAX_RECORD_BYTES, READ_BYTES, Cursor, Record
from instruct_core.errors import BadRowError


def read(content: str | bytes, start: Cursor = FIRST) -> list[Record]:
    data = content if isinstance(content, bytes) else content.encode()
    return list(read_json(io.BytesIO(data), "rows.json", start))


@pytest.mark.parametrize(
    "content",
    [
        '{"a": 1}\n{"a": 2}\n\n{"a": 3}',
        '\ufeff[{"a": 1}, {"a": 2},\n{"a": 3}]\n',
        '[{"a": 1}, {"a": 2}]\n[{"a": 3}]\n',
        '[{"a": 1}],\n[],\n[{"a": 2}, {"a": 3}]',
        '{"data": [{"a": 1}, {"a": 2}, {"a": 3}]}\n',
        '{\n  "data": [\n    {"a": 1}, {"a": 2},\n{"a": 3}\n  ]\n}\n',
        '{\n  "a": 1\n}\n{\n  "a": 2\n}\n{"a": 3}',
    ],
    ids=["lines", "array", "arrays", "more arrays", "object", "object of lines", "values"],
)
def test_rows_are_found_however_they_stand_and_from_each_of_them_on(content: str) -> None:
    whole = read(content)

    assert [record.value for record in whole] == [{"a": 1}, {"a": 2}, {"a": 3}]
    assert all(read(content, whole[k].next) == whole[k + 1 :] for k in range(3))


@pytest.mark.parametrize(
    ("content", "where", "problem"),
    [
        (b'{"a": 1}\n{"a": \n', ":2", "not JSON"),
        (b'{"a": 1}\n\n{"a": "\xff"}\n', ":3", "not valid UTF-8 at byte 7"),
        (b"{}\n" + b"[" * 100_000 + b"\n", ":2", "not JSON: nested too deeply"),
        (b'{"a": ' + b"9" * 5000 + b"}\n", ":1", "a number has too many digits"),
        ('{"a": 1}\n'.encode("utf-16"), ":1", "not valid UTF-8 at byte 0 .*UTF-16"),
    ],
)
def test_bad_line_is_named(content: bytes, where: str, problem: str) -> None:
    bad = next(record for record in read(content) if record.problem)

    assert bad.where == f"rows.json{where}"
    assert re.search(problem, bad.problem)


class CountedLines(io.BytesIO):
    """A file that notes how long the longest line was that anybody has held."""

    longest = 0

    def readline(self, size: int | None = -1, /) -> bytes:
        raw = super().readline(size)
        self.longest = max(self.longest, len(raw))
        return raw

    def __next__(self) -> bytes:
        if raw := self.readline():
            return raw
        raise StopIteration


@pytest.mark.parametrize("end", [b"\n", b""])
def test_line_longer_than_any_row_is_one_bad_row_and_never_whole_in_memory(end: bytes) -> None:
    long = b"x" * (MAX_RECORD_BYTES + 3 * READ_BYTES) + end
    others = b'{"a": 2}\n' if end else b""
    file = CountedLines(b'{"a": 1}\n' + long + others)

    good, bad, *rest = read_json(file, "rows.json", FIRST)

    assert (good.value, bad.where) == ({"a": 1}, "rows.json:2")
    assert bad.problem.startswith("it is longer than 64 MB")
    assert bad.next == Cursor(9 + len(long), 3)
    assert [record.value for record in rest] == ([{"a": 2}] if end else [])
    file.seek(0)
    cuts = list(cut_json(file, "rows.json", 1, 1))
    assert [cut.cursor for cut in cuts] == [record.next for record in (good, bad, *rest)]
    assert file.longest == MAX_RECORD_BYTES + 1


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ('[{"a": 1},\n {"a": ', ":2 is not JSON: the array is broken or cut off here"),
        ('[{"a": 1}\n', ":2 is not JSON: the array is broken or cut off here"),
        ('{"data": [{"a": 1}]\n', ":2 is not JSON: the array is broken or cut off here"),
        ('[{"a": 1}]\n{"a": 2}\n', ":2 follows the array, which ends before it"),
        ('{"data": [{"a": 1}],\n"more": 2}', ":2 follows the array"),
        ('{\n"a": 1\n', ":1 is not JSON: the object is broken or cut off here"),
    ],
)
def test_broken_array_is_refused_where_it_breaks(content: str, problem: str) -> None:
    with pytest.raises(BadRowError, match=f"Row rows.json{problem}"):
        read(content)


def test_row_that_begins_as_an_object_around_an_array_stays_a_row() -> None:
    alone = {"examples": [{"a": 1}], "instruction": "x"}
    two = [{"data": [{"a": k}]} for k in range(2)]

    found = [record.value for record in read(json.dumps(alone))]
    found += [record.value for record in read("\n".join(map(json.dumps, two)))]

    assert found == [alone, *two]


def test_array_is_read_in_small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_rows, "READ_BYTES", 7)
    rows: list[Any] = [{"a": 'ä]},{[\\" ' * k} for k in range(9)]

    found = read(json.dumps(rows, ensure_ascii=False))

    assert [record.value for record in found] == rows


TWICE = {
    '{"a": "x", "b": "y", "a": "z"}': "a",
    '{"a": 1, "a": 1}': "a",
    '{"a": "x\\\\", "a": "y\\\\"}': "a",
    '{"messages": [{"role": "user", "content": "\\"", "role": "tool"}]}': "role",
    '{"c": [[{"a": {"b": null, "\\u0062": [2.5]}}]]}': "b",
    '{"a": 12345678901234567890123, "a": "x"}': "a",
}


@pytest.mark.parametrize("row", TWICE)
def test_key_that_stands_twice_makes_a_bad_row_and_hides_no_other(row: str) -> None:
    bad, good = read(f'{row}\n{{"a": 1}}\n')

    assert bad.problem == f"the key {TWICE[row]!r} stands twice in one object"
    assert bad.where == "rows.json:1"
    assert good.value == {"a": 1}


@pytest.mark.parametrize("indent", [None, 1])
def test_no_text_is_taken_for_a_key_that_stands_twice(indent: int | None) -> None:
    texts = ['"', "\\", '\\"', '\\\\"', '": "', '{"a": 1, "a": 2}', "ä\u2028\x00\x7f", ""]
    rows = [{"a": texts, "b": {one: other}, other: [one]} for one in texts for other in texts]

    found = read("[" + ",".join(json.dumps(row, indent=indent) for row in rows) + "]")

    assert [record.value for record in found] == rows
