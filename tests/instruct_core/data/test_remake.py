"""The command that makes a shard set again can be typed as it stands."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

from instruct_core.data.remake import command_that_makes
from instruct_core.storage.documents import dump_document
from instruct_core.storage.store import Store

PLAN = {
    "sources": [{"source": "a.jsonl"}, {"source": "b.jsonl"}],
    "weights": [0.123456789, 70.0],
    "template_typed": "base",
    "template_text": "{{ messages }}",
    "own_tokenizer": {"place": "models/own"},
}


@pytest.mark.parametrize(
    ("asked", "template", "end"),
    [
        ({}, "base", "--tokenizer models/own"),
        ({"tokenizer": "models/other"}, "base", "--tokenizer models/other"),
        ({"tokenizer": "gpt2", "has_template": False}, "chatml", "chatml"),
    ],
)
def test_command_has_the_weights_to_the_digit_and_a_template_that_the_tokenizer_has(
    tmp_path: Path, asked: dict[str, Any], template: str, end: str
) -> None:
    store = Store(tmp_path)
    first = PLAN | {"sources": [PLAN | {"source": "a.jsonl"}, {"source": "b.jsonl"}]}
    store.replace("plan.json", dump_document(first))

    command = command_that_makes(store, "out", **asked)

    assert "--source a.jsonl --source b.jsonl --weights 0.123456789,70 --out out" in command
    assert f"--template {template}" in command
    assert command.endswith(end)


@pytest.mark.parametrize("typed", ["a/x.jsonl", "a/*.jsonl", "a", "builtin"])
def test_command_names_a_source_that_was_typed_in_another_folder_by_its_whole_place(
    tmp_path: Path, typed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, store = tmp_path / "a" / "x.jsonl", Store(tmp_path / "set")
    rows.parent.mkdir()
    rows.touch()
    plan = {"source": typed, "files": [{"url": str(rows)}]}
    store.replace("plan.json", dump_document(plan))
    monkeypatch.chdir(tmp_path)
    here = command_that_makes(store, "out")
    monkeypatch.chdir(rows.parent)

    elsewhere = command_that_makes(store, "out")

    place = typed if typed == "builtin" else f"{tmp_path}/{typed}"
    assert shlex.split(here)[2:4] == ["--source", typed]
    assert shlex.split(elsewhere)[2:4] == ["--source", place]


@pytest.mark.parametrize("name", ["rows.jsonl", "x" * 300], ids=["here", "forbidden"])
def test_source_that_cannot_be_looked_at_is_named_as_it_was_typed(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a home that nobody else may enter, or from a folder that is gone: training on the set failed."""
    store, gone = Store(tmp_path / "set"), tmp_path / "gone"
    plan = {"source": name, "files": [{"url": f"{tmp_path}/{name}"}]}
    store.replace("plan.json", dump_document(plan))
    (tmp_path / "rows.jsonl").touch()
    gone.mkdir()
    monkeypatch.chdir(gone)
    if name == "rows.jsonl":
        gone.rmdir()  # the other name no disk looks at, whoever asks

    command = command_that_makes(store, "out")

    assert shlex.split(command)[2:4] == ["--source", name]
