"""The text a row becomes, to the letter: trained models depend on it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from instruct_core.data.alpaca import ALPACA, ALPACA_1, ALPACA_2, Alpaca, trimmed
from instruct_core.data.shard_plan import ShardPlan, scan
from instruct_core.data.sources import Source
from instruct_core.data.template import Segment, text_of
from instruct_core.data.templates import BY_HEADINGS, choose_template, template_of
from instruct_core.data.tokenizer import load_tokenizer
from instruct_core.data.turns import Exchange

PLAIN = {"instruction": "Add.", "output": "1 + 2\n  = 3"}
CODE = {"instruction": "Write it.", "output": "    if a:\r\n        b()\r\n"}


def test_row_with_input_has_three_headings() -> None:
    prompt, response, end = BY_HEADINGS.segments(Exchange(" Add. ", " 1, 2 ", " 3\n").turns)

    assert prompt.text == "### Instruction:\nAdd.\n\n### Input:\n1, 2\n\n### Response:\n"
    assert response == Segment("3", is_learnt=True)
    assert end == Segment("<|endoftext|>", is_learnt=True, is_special=True)


def test_input_block_is_left_out_when_empty() -> None:
    [prompt] = BY_HEADINGS.segments(Exchange("Hi", " \n").turns, asks=True)

    assert prompt.text == "### Instruction:\nHi\n\n### Response:\n"


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("    if a:\n        b()\n", "    if a:\n        b()"),
        ("\n \n\tb()\n", "\tb()"),
        (" Paris", "Paris"),
        (" \tb()", " \tb()"),
        ("one\r\ntwo\r\n", "one\ntwo"),
        ("10 %\r20 %", "10 %\r20 %"),
        (" \r\n\n ", ""),
    ],
)
def test_indent_of_a_first_line_stays_and_blanks_around_a_field_go(said: str, kept: str) -> None:
    assert trimmed(said) == kept
    assert text_of(BY_HEADINGS.segments(Exchange("Go.", said, said).turns)).count(kept) >= bool(
        kept
    )


def scanned(folder: Path, rows: list[dict[str, str]], typed: str = "alpaca") -> ShardPlan:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    template = choose_template(typed, load_tokenizer())
    return scan(Source("rows", "rows", [str(path)]), None, None, False, template=template)


def test_rows_that_every_version_writes_alike_keep_the_name_of_the_first(tmp_path: Path) -> None:
    history = PLAIN | {"history": json.dumps([["Hi.", "Hello."]])}

    assert scanned(tmp_path, [PLAIN]).template == ALPACA_1
    assert scanned(tmp_path, [history]).template == ALPACA_2
    assert scanned(tmp_path, [PLAIN, CODE]).template == ALPACA


@pytest.mark.parametrize("name", [ALPACA_1, ALPACA_2])
def test_set_that_an_earlier_version_began_goes_on_as_it_was(tmp_path: Path, name: str) -> None:
    plan = scanned(tmp_path, [CODE])
    begun = replace(plan, template=name)
    source = Source("rows", "rows", [str(tmp_path / "rows.jsonl")])

    [row] = begun.rows(0, template_of(name, "", load_tokenizer()))

    assert begun.still_fits(source, None, None, False, None, BY_HEADINGS)
    assert begun.fingerprint != plan.fingerprint
    assert row == Alpaca("<|endoftext|>", name=ALPACA_2).segments(
        Exchange("Write it.", "", "if a:\r\n        b()").turns
    )


def test_line_breaks_of_windows_are_none_in_any_template(tmp_path: Path) -> None:
    plain = scanned(tmp_path, [PLAIN], "chatml")
    plan = scanned(tmp_path, [CODE], "chatml")

    [row] = plan.rows(0, template_of(plan.template, plan.template_text, load_tokenizer()))
    as_before = template_of(plain.template, plan.template_text, load_tokenizer())
    [old_row] = plan.rows(0, as_before)

    assert plan.template != plain.template
    assert plan.template_text == plain.template_text
    assert "    if a:\n        b()\n" in text_of(row)
    assert "    if a:\r\n        b()\r\n" in text_of(old_row)
