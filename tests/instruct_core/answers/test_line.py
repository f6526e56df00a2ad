"""A line of the answers is its row as it went in, with the answer beside it; and it is JSON."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from instruct_core.answers.line import Answered, line_of, refuse_taken
from instruct_core.data.record import FIRST
from instruct_core.data.records import read_records

ANSWER = Answered("Hello.", "end", 2)


def refuse_constant(name: str) -> Any:
    raise AssertionError(f"{name} is no JSON")


def written(record: dict[str, Any]) -> dict[str, Any]:
    line = line_of(record, ANSWER, "answer")
    assert line.endswith("\n")
    line.encode()
    return dict(json.loads(line, parse_constant=refuse_constant))


@pytest.mark.parametrize(
    ("value", "comes_out"),
    [
        (12345678901234567890123, 12345678901234567890123),
        (-(2**70), -(2**70)),
        (1.5, 1.5),
        (float("nan"), None),
        (float("-inf"), None),
        ([1, {"a": float("nan")}, "x"], [1, {"a": None}, "x"]),
        ("\ud83d half", "\ud83d half"),
        ("ünï 🙂", "ünï 🙂"),
        (None, None),
        (True, True),
        (date(2026, 1, 2), "2026-01-02"),
        (datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), "2026-01-02T03:04:05+00:00"),
        (Decimal("1.10"), "1.10"),
        (b"\xff\x00", "/wA="),
        ({"when": date(2026, 1, 2), 3: "x"}, {"when": "2026-01-02", "3": "x"}),
    ],
)
def test_column_comes_out_as_it_went_in(value: Any, comes_out: Any) -> None:
    line = written({"prompt": "Hi.", "more": value})

    assert line["more"] == comes_out
    assert line["prompt"] == "Hi."
    assert (line["answer"], line["finish_reason"], line["new_tokens"]) == ("Hello.", "end", 2)


def test_large_number_survives_the_way_through(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text(
        '{"prompt": "Hi.", "id": 12345678901234567890123, "ids": [9223372036854775808]}\n'
    )

    [record] = list(read_records(str(path), FIRST))

    line = written(record.value)
    assert line["id"] == 12345678901234567890123
    assert line["ids"] == [9223372036854775808]


@pytest.mark.parametrize("name", ["reply", "finish_reason", "new_tokens"])
def test_row_that_has_a_column_of_ours_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"it has a column {name} already"):
        refuse_taken({"prompt": "Hi.", name: 1}, "reply")
