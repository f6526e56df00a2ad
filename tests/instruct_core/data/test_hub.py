"""Which rows of the Hub are meant, in one word: configuration, revision and split."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from instruct_core.data import sources
from instruct_core.data.hub import Dataset, dataset_of, fetch
from instruct_core.data.sources import resolve_source
from instruct_core.errors import MissingError
from instruct_core.storage.store import Store


@pytest.mark.parametrize(
    ("typed", "dataset"),
    [
        ("vicgalle/alpaca-gpt4", Dataset("vicgalle/alpaca-gpt4")),
        ("openai/gsm8k:main", Dataset("openai/gsm8k", "main")),
        ("a/b[train_sft]", Dataset("a/b", split="train_sft")),
        ("a/b@refs/convert/parquet", Dataset("a/b", revision="refs/convert/parquet")),
        ("a/b:c.1@v2[test+train]", Dataset("a/b", "c.1", "v2", "test+train")),
    ],
)
def test_dataset_is_read_from_a_word_and_written_as_it(typed: str, dataset: Dataset) -> None:
    assert dataset_of(typed) == dataset
    assert str(dataset) == typed


@pytest.mark.parametrize(
    "typed",
    ["rows.jsonl", "a/b/c", "s3://bucket/rows", "a/b:", "a/b[", "a/b[x]y", "a/b[train[:9]]"],
)
def test_what_is_no_dataset_is_none(typed: str) -> None:
    assert dataset_of(typed) is None


def test_configuration_and_split_are_those_that_were_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "org" / "name"  # the client takes a folder of that name for the dataset
    folder.mkdir(parents=True)
    for name in ("one", "two", "held"):
        (folder / f"{name}.jsonl").write_text(json.dumps({"instruction": name, "output": "x"}))
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: first\n  data_files:\n  - {split: train, path: one.jsonl}\n"
        "- config_name: second\n  data_files:\n  - {split: train, path: two.jsonl}\n"
        "  - {split: held_out, path: held.jsonl}\n---\n"
    )

    def rows_of(dataset: Dataset) -> list[str]:
        file = io.BytesIO()
        fetch(dataset, file)
        return list(pq.read_table(file)["instruction"].to_pylist())

    assert rows_of(Dataset("org/name", "second")) == ["two"]
    assert rows_of(Dataset("org/name", "second", split="held_out")) == ["held"]
    with pytest.raises(
        MissingError, match=r"Source org/name\[x\] is no file here.*CONFIG@REVISION"
    ):
        rows_of(Dataset("org/name", split="x"))


def test_each_split_of_a_dataset_is_a_file_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[Dataset] = []

    def fake(dataset: Dataset, file: io.BytesIO) -> None:
        fetched.append(dataset)
        file.write(b"rows")

    monkeypatch.setattr(sources, "fetch", fake)
    words = ["a/b", "a/b[c]", "a/b:c", "a/b@c", "a/b:c"]

    found = [resolve_source(word, Store(tmp_path / "out")) for word in words]

    assert [str(dataset) for dataset in fetched] == words[:4]
    assert len({source.files[0] for source in found}) == 4
    assert found[0].files[0].endswith("source/a--b.parquet")
    assert found[1].identity == "Hugging Face dataset a/b[c]"
