"""A tokenizer without a token for every character: rows that lose some to it are counted and said."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from instruct_core.data.mixed_plan import load_shard_plan
from instruct_core.data.set_manifest import load_manifest
from instruct_core.data.tokenizer import load_tokenizer
from instruct_core.storage.store import Store
from launch.arrays.shards import prepare
from launch.flags.array import ArrayFlags
from launch.flags.preprocess import Preprocess
from tests.small_tokenizers import write_byte_level, write_metaspace

Change = Callable[[dict[str, Any]], None]


def without_bytes(document: dict[str, Any]) -> None:
    document["model"]["byte_fallback"] = False
    decoders = document["decoder"]["decoders"]
    document["decoder"]["decoders"] = [d for d in decoders if d["type"] != "ByteFallback"]


def without_a_word_for_others(document: dict[str, Any]) -> None:
    without_bytes(document)
    document["model"]["unk_token"] = None


def without_some_bytes(document: dict[str, Any]) -> None:
    model = document["model"]
    lost = [char for char in "QåĲ" if model["vocab"].pop(char, None) is not None]
    assert lost
    model["merges"] = [m for m in model["merges"] if not any(char in "".join(m) for char in lost)]


def in_small_letters(document: dict[str, Any]) -> None:
    document["normalizer"] = {"type": "Lowercase"}


def as_it_was(document: dict[str, Any]) -> None:
    pass


def both(*changes: Change) -> Change:
    def change(document: dict[str, Any]) -> None:
        for one in changes:
            one(document)

    return change


def base_of(folder: Path, write: Callable[[Path], Path], change: Change) -> Path:
    file = write(folder) / "tokenizer.json"
    document = json.loads(file.read_text())
    change(document)
    file.write_text(json.dumps(document))
    return folder


@pytest.mark.parametrize(
    ("write", "change"),
    [
        (write_metaspace, without_bytes),
        (write_metaspace, without_a_word_for_others),
        (write_metaspace, both(without_a_word_for_others, in_small_letters)),
        (write_byte_level, without_some_bytes),
    ],
)
def test_text_that_loses_characters_is_told_from_one_that_loses_none(
    tmp_path: Path, write: Callable[[Path], Path], change: Change
) -> None:
    loses = load_tokenizer(str(base_of(tmp_path, write, change))).loses

    assert loses is not None
    assert [loses(text) for text in ("The capital of the sky?\n", "the 你好?", "")] == [
        False,
        True,
        False,
    ]


@pytest.mark.parametrize("write", [write_metaspace, write_byte_level])
@pytest.mark.parametrize("change", [as_it_was, in_small_letters])
def test_tokenizer_with_a_token_for_each_byte_loses_nothing(
    tmp_path: Path, write: Callable[[Path], Path], change: Change
) -> None:
    assert load_tokenizer(str(base_of(tmp_path, write, change))).loses is None
    assert load_tokenizer().loses is None


def test_rows_that_lose_characters_are_counted_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    base_of(tmp_path / "base", write_metaspace, without_bytes)
    questions = ["What is Paris?", "What is 你好?", "What is the capital?", "你"]
    rows = [{"instruction": text, "output": "a colour"} for text in questions]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    array = ArrayFlags(num_tasks=1, cluster="debug")
    flags = Preprocess(source=("rows.jsonl",), out="set", array=array, tokenizer="base")
    assert prepare(flags) == 0

    assert "Tokenizer: 2 rows with characters that it has no token for" in capsys.readouterr().out
    assert load_shard_plan(Store(tmp_path / "set")).num_lossy == 2
    assert load_manifest(Store(tmp_path / "set")).source_rows == 4
