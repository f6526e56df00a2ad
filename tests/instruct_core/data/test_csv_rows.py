"""Broken rows of a CSV cost themselves and nothing else; good rows stay good; delimiters are found."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instruct_core.data.csv_rows import MANY_LINES, read_csv
from instruct_core.data.record import FIRST, MAX_RECORD_BYTES, Cursor, Record
from instruct_core.data.records import read_records
from instruct_core.data.shard_plan import scan
from instruct_core.data.sources import Source
from instruct_core.data.templates import BY_HEADINGS
from instruct_core.errors import BadRowError

PLAIN = [f"Say {k}.,,Number {k}." for k in range(1000)]
OPEN = 'Say 10.,,"Number 10.'


def table(rows: list[str], header: str = "instruction,input,output") -> bytes:
    return "\n".join([header, *rows, ""]).encode()


def read(data: bytes, start: Cursor = FIRST) -> list[Record]:
    return list(read_csv(io.BytesIO(data), "rows.csv", start, ",;\t|"))


def with_rows(rows: list[str], **at: str) -> list[str]:
    changed = dict(enumerate(rows)) | {int(place[1:]): row for place, row in at.items()}
    return [changed[place] for place in range(len(rows))]


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        (with_rows(PLAIN, _10=OPEN), "a quote opened in line 12 is never closed"),
        (
            with_rows(PLAIN, _10=OPEN, _600='Say 600.,,"Number 600."'),
            "a quote opened in line 12 is closed in line 602, with more text behind it",
        ),
        (
            with_rows(PLAIN, _10=OPEN, _600='Say 600.,,5 feet 6"'),
            "a quote opened in line 12 is closed only in line 602, and the lines between are rows",
        ),
        (
            with_rows(PLAIN, _10=OPEN, _600='Say 600.,,"\nNumber\n600"'),
            "a quote opened in line 12 is closed only in line 602, and the lines between are rows",
        ),
        (
            with_rows(PLAIN, _10=OPEN, _11='Say 11.,,"Number 11."'),
            "a quote opened in line 12 is closed in line 13, with more text behind it",
        ),
        (with_rows(PLAIN, _999=OPEN), "a quote opened in line 1001 is never closed"),
        (
            with_rows([f'"Say {k}.","","Number {k}."' for k in range(1000)], _10='"Say","","Ten'),
            "a quote opened in line 12 is closed in line 13, with more text behind it",
        ),
    ],
)
def test_open_quote_costs_its_own_row_alone(rows: list[str], problem: str) -> None:
    found = read(table(rows))

    assert [record.problem for record in found if record.problem] == [problem]
    assert len(found) == 1000


def test_open_quote_behind_a_field_of_many_lines_is_named_where_it_opens() -> None:
    rows = with_rows(PLAIN, _10='"Say\nten.",,"Number 10.')

    bad = [record for record in read(table(rows)) if record.problem]

    assert [(r.line, r.problem) for r in bad] == [
        (12, "a quote opened in line 13 is never closed (lines 12 to 13)")
    ]


def test_row_that_swallowed_others_and_has_too_many_fields_gives_them_back() -> None:
    rows = with_rows(PLAIN, _10=OPEN, _600='Say 600", he said,,x')

    found = read(table(rows))

    assert [record.line for record in found if record.problem] == [12, 602]
    assert len(found) == 1000


@pytest.mark.parametrize(
    "text",
    [
        "\n".join(f"line {k}, or so" for k in range(2000)),
        "name,age,city\n" + "\n".join(f"Bob,{k},Rome" for k in range(2000)),
        "The table:\n" + "\n".join(f"Bob,{k},Rome" for k in range(20)),
        'She said ""yes"",\n\n\nand left.',
    ],
    ids=["a long text", "a table", "a short table", "quotes and blank lines"],
)
def test_field_of_many_lines_stays_one_field(text: str) -> None:
    rows = with_rows(PLAIN, _10=f'Say 10.,,"{text}"')

    found = read(table(rows))

    assert [record.problem for record in found] == [""] * 1000
    assert found[10].value["output"] == text.replace('""', '"')


def test_what_is_left_of_a_broken_row_is_no_row() -> None:
    row = '"Say a "word" here,\nand then","","and so on"\nline three","b","c"'
    rows = with_rows(PLAIN, _10=row)

    found = read(table(rows))

    assert [record.line for record in found if record.problem] == [12]
    assert found[10].problem == "not CSV: ',' expected after '\"' (lines 12 to 14)"
    assert len(found) == 1000


def test_row_with_bytes_of_no_text_is_one_bad_row() -> None:
    rows = table(with_rows(PLAIN, _10='Say 10.,,"Number\nXX, or\nso"')).replace(b"XX", b"\xff")

    found = read(rows)

    assert [(r.line, r.problem) for r in found if r.problem] == [
        (12, "not valid UTF-8 (lines 12 to 14)")
    ]


LINES = st.lists(st.text('ab,,""', max_size=7), max_size=30)


@settings(deadline=None, max_examples=300)
@given(first=LINES, rows=st.integers(0, MANY_LINES + 20), last=LINES)
def test_broken_file_reads_the_same_from_every_record_on(
    first: list[str], rows: int, last: list[str]
) -> None:
    data = table([*first, *["x,y"] * rows, *last], header="a,b")

    whole = read(data)

    places = range(0, len(whole), max(1, len(whole) // 10))
    assert all(read(data, whole[k].next) == whole[k + 1 :] for k in places)


def test_plan_of_a_broken_file_counts_every_row_and_tasks_read_the_same(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(table(with_rows(PLAIN, _10=OPEN, _260=OPEN, _700=OPEN)))

    plan = scan(Source("rows", "rows", [str(path)]), None, None, skip_bad_rows=True)

    rows = [row for shard in range(plan.num_parts) for row in plan.rows(shard, BY_HEADINGS)]
    assert (plan.num_rows, len(plan.bad_rows), plan.num_parts) == (1000, 3, 4)
    assert [k for k, row in enumerate(rows) if row is None] == [10, 260, 700]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_delimiter_is_found_in_the_header(delimiter: str) -> None:
    lines = ["instruction (or, question)", "input", "output"], ["Add.", "1;2\t3", "a|b"]
    data = "\n".join(delimiter.join(f'"{field}"' for field in line) for line in lines)

    [record] = read(data.encode())

    assert record.value == dict(zip(*lines, strict=True))


def test_blank_lines_are_passed_over_also_before_the_header() -> None:
    found = read(b"\xef\xbb\xbf\n  \n a,b\n1,2\n \n\n3,4\n")

    assert [(record.line, record.value) for record in found] == [
        (4, {" a": "1", "b": "2"}),
        (7, {" a": "3", "b": "4"}),
    ]


def test_line_that_names_the_delimiter_is_no_row() -> None:
    found = [read(b"\xef\xbb\xbfsep=;\r\na;b,c\r\n1;2\r\n"), read(b'"sep=^"\na^b,c\n1^2\n')]

    assert [[(r.line, r.value) for r in rows] for rows in found] == [
        [(3, {"a": "1", "b,c": "2"})]
    ] * 2


def test_header_of_a_file_that_was_joined_on_is_a_bad_row() -> None:
    joined = "a,b\n1,2\n\ufeffa,b\n\ufeff3,4\n".encode()

    found = read(joined)

    assert [record.value for record in found] == [
        {"a": "1", "b": "2"},
        None,
        {"a": "3", "b": "4"},
    ]
    assert found[1].problem == "it is the header again, as where files were joined"


def test_rows_of_utf_16_are_no_text() -> None:
    windows = "a,b\r\n1,2\r\n3,4\r\n".encode("utf-16-le")

    with pytest.raises(BadRowError, match=r"rows.csv:1 is .*zero bytes in it, as UTF-16 has. Save"):
        read(windows)
    [bad, good] = read(b"a,b\n1,\x002\n3,4\n")

    assert (bad.problem, good.problem) == ("no UTF-8 but has zero bytes in it, as UTF-16 has", "")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (table(PLAIN, 'instruction,input,"output'), "1 is .*opened in line 1 is never closed"),
        (table([*PLAIN, '5"'], 'instruction,input,"output'), "1 is .*closed only in line 1002"),
        (b"a,b,a\n1,2,3\n", r"1 is .*a name of its own, got 'a' twice"),
        (b"a,\xff\n1,2\n", "1 is .*not valid UTF-8"),
        (b"a,b\r1,2\r", r"1 is .*lines end with \\r alone"),
    ],
)
def test_header_that_is_none_is_refused_with_the_reason(data: bytes, reason: str) -> None:
    with pytest.raises(BadRowError, match=f"rows.csv:{reason}"):
        read(data)


def test_line_longer_than_any_row_is_refused_by_its_number() -> None:
    with pytest.raises(
        BadRowError, match=r"Row rows.csv:3 cannot be used: it is longer than 64 MB"
    ):
        read(b"a,b\n1,2\n" + b"x" * 2 * MAX_RECORD_BYTES)


def test_file_of_tabs_is_read_by_its_ending(tmp_path: Path) -> None:
    path = tmp_path / "rows.tsv"
    path.write_text("a,b\tc,d\n1,5\t2\n", encoding="utf-8")

    [record] = read_records(str(path))

    assert record.value == {"a,b": "1,5", "c,d": "2"}
