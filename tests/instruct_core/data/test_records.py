"""Rows read from any place on, in every format, with the place of what is wrong."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instruct_core.data import records
from instruct_core.data.records import read_records
from instruct_core.errors import BadRowError, ConfigError

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\0"), max_size=30)
ROWS = st.lists(st.fixed_dictionaries({"a": TEXTS, "b": TEXTS}), min_size=1, max_size=12)


def write(folder: Path, ending: str, rows: list[dict[str, str]]) -> str:
    path = folder / f"rows.{ending}"
    if ending == "jsonl":
        path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows))
    elif ending == "json":
        path.write_text(json.dumps(rows, ensure_ascii=False, indent=2))
    elif ending == "csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["a", "b"], quoting=csv.QUOTE_ALL)
            writer.writeheader()
            writer.writerows(rows)
    else:
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=5)
    return str(path)


@pytest.mark.parametrize("ending", ["jsonl", "json", "csv", "parquet"])
@settings(deadline=None, max_examples=40)
@given(rows=ROWS)
def test_reading_on_from_any_record_equals_reading_all(
    tmp_path_factory: pytest.TempPathFactory, ending: str, rows: list[dict[str, str]]
) -> None:
    url = write(tmp_path_factory.mktemp("rows"), ending, rows)

    whole = list(read_records(url))
    rests = [[r.value for r in read_records(url, record.next)] for record in whole]

    assert [record.value for record in whole] == rows
    assert rests == [rows[k + 1 :] for k in range(len(rows))]


@pytest.mark.parametrize(
    ("content", "where", "problem"),
    [
        (b'{"a": 1}\n{"a": \n', ":2", "not JSON"),
        (b'{"a": 1}\n\n{"a": "\xff"}\n', ":3", "not valid UTF-8 at byte 7"),
        (b"{}\n" + b"[" * 100_000 + b"\n", ":2", "not JSON"),
    ],
)
def test_bad_line_is_named(tmp_path: Path, content: bytes, where: str, problem: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)

    bad = next(record for record in read_records(str(path)) if record.problem)

    assert bad.where == f"{path}{where}"
    assert problem in bad.problem


def test_csv_row_with_other_fields_is_named_and_reading_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('a,b\n1,"x\ny"\n1,2,3\n4,5\n')

    found = list(read_records(str(path)))

    assert [r.value for r in found] == [{"a": "1", "b": "x\ny"}, None, {"a": "4", "b": "5"}]
    assert found[1].where == f"{path}:4"
    assert found[1].problem == "it has 3 fields, the header has 2"


def test_array_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text('[{"a": 1},\n {"a": ')

    with pytest.raises(BadRowError, match=r"rows.json:2 is not JSON: the array is broken"):
        list(read_records(str(path)))


def test_array_is_read_in_small_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "READ_BYTES", 7)
    rows: list[Any] = [{"a": 'ä]},{[\\" ' * k} for k in range(9)]
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(rows, ensure_ascii=False))

    assert [record.value for record in read_records(str(path))] == rows


def test_json_file_of_lines_is_read_as_lines_from_any_place(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text('{"a": 1}\n{"a": 2}\n')

    first, second = read_records(str(path))

    assert (first.value, second.value) == ({"a": 1}, {"a": 2})
    assert [record.value for record in read_records(str(path), first.next)] == [{"a": 2}]


def test_empty_csv_among_others_has_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("")

    assert list(read_records(str(path))) == []


def test_unknown_ending_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"must end in .json, .jsonl, .csv or .parquet, got .txt"):
        records.format_of("rows.txt")
