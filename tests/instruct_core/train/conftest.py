"""What a loop trains on where GPT-2's tokens are not what is proved."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import launch, made_once
from tests.instruct_core.train.desk import Desk


@pytest.fixture(scope="session")
def shard_set(folder_of_all: Path, rows_file: Path, small_base: Path) -> Path:
    """A thousand tokens to learn, and as many rows of validation as usual; nobody may change it."""

    def make(cwd: Path) -> None:
        flags = (f"--source={rows_file}", f"--tokenizer={small_base}", "--num-tasks=1")
        result = launch("preprocess", *flags, "--out=small", cwd=cwd)
        assert result.returncode == 0, result.stderr

    return made_once(folder_of_all / "shards-of-loops", make) / "small"


@pytest.fixture
def desk(tmp_path: Path, shard_set: Path) -> Desk:
    return Desk(tmp_path, shard_set)
