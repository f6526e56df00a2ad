"""What becomes of a document that says more, less or other things than its record holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cattrs.gen
import pytest

from instruct_core.converter import structure
from instruct_core.errors import CorruptFileError


@dataclass(frozen=True)
class Part:
    name: str
    size: int


@dataclass(frozen=True)
class Whole:
    parts: list[Part]
    loss: float
    note: str | None = None


@dataclass(frozen=True)
class Holder:
    part: Part


@dataclass(frozen=True)
class OtherHolder:
    part: Part


GOOD = {"parts": [{"name": "a", "size": 1}], "loss": 2}


def test_document_becomes_its_record() -> None:
    assert structure(GOOD, Whole, "x is no whole") == Whole([Part("a", 1)], 2.0)


def test_field_of_a_newer_version_is_left_out() -> None:
    assert structure(GOOD | {"colour": "red"}, Whole, "x is no whole") == Whole([Part("a", 1)], 2.0)


def test_strict_reading_refuses_a_field_it_does_not_know() -> None:
    with pytest.raises(CorruptFileError, match=r"^x is no whole: extra fields found \(colour\)"):
        structure(GOOD | {"colour": "red"}, Whole, "x is no whole", strict=True)


def test_field_that_was_read_already_is_taken_as_it_is() -> None:
    part = Part("a", 1)

    assert structure({"part": part}, Holder, "x is no holder", as_it_is=Part).part is part


def test_what_reads_a_class_is_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[str] = []

    def note(source: str, name: str, mode: str) -> Any:
        compiled.append(name)
        return compile(source, name, mode)

    monkeypatch.setattr(cattrs.gen, "compile", note, raising=False)

    for name in ("a", "b"):
        part = Part(name, 1)
        structure({"part": part}, OtherHolder, "x is no holder", as_it_is=Part)

    assert len(compiled) == 1


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (GOOD | {"loss": "2"}, "'2' is no float @ $.loss"),
        (GOOD | {"loss": True}, "'True' is no float @ $.loss"),
        (GOOD | {"note": 3}, "'3' is no str @ $.note"),
        (GOOD | {"parts": [{"name": "a", "size": 1.5}]}, "'1.5' is no int @ $.parts[0].size"),
        (GOOD | {"parts": None}, "expected list @ $.parts"),
        ({"loss": 2}, "required field missing @ $.parts"),
        ("text", "@ $.parts"),
        (None, "@ $"),
    ],
)
def test_message_names_file_field_and_reason(document: Any, reason: str) -> None:
    with pytest.raises(CorruptFileError) as caught:
        structure(document, Whole, "x is no whole")

    assert str(caught.value).startswith("x is no whole: ")
    assert reason in str(caught.value)


def test_message_stays_short_where_everything_is_wrong() -> None:
    document = GOOD | {"parts": [{"name": "a" * 10**6, "size": "b" * 10**6}] * 1000}

    with pytest.raises(CorruptFileError) as caught:
        structure(document, Whole, "x is no whole")

    assert len(str(caught.value)) < 1000
