"""A model and shards have one tokenizer, whatever an earlier version called it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from instruct_core.errors import ConfigError
from launch.runs.tokenizers import same_tokenizer
from tests.small_tokenizers import write_byte_level


def test_shards_whose_files_are_the_models_fit_it_under_another_name(tmp_path: Path) -> None:
    model, shards = write_byte_level(tmp_path / "model"), tmp_path / "shards"
    (model / "config.json").write_text('{"model_type": "llama"}')
    shards.mkdir()

    with pytest.raises(ConfigError, match="were made with the tokenizer bpe-before"):
        same_tokenizer(str(model), "it", str(shards), "bpe-before")
    shutil.copytree(write_byte_level(tmp_path / "other", vocab_size=300), shards / "tokenizer")
    with pytest.raises(ConfigError, match="were made with the tokenizer bpe-before"):
        same_tokenizer(str(model), "it", str(shards), "bpe-before")
    shutil.rmtree(shards / "tokenizer")
    shutil.copytree(model, shards / "tokenizer")

    found = same_tokenizer(str(model), "it", str(shards), "bpe-before")

    assert found.identity == same_tokenizer(str(model), "it", str(shards), None).identity
