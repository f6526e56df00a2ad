"""Fixtures of the tests of conversations."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import TINY_RUN, launch, made_once


@pytest.fixture(scope="session")
def trained(folder_of_all: Path, shard_set: Path) -> Path:
    """A folder with a run that has two steps; nobody may change them."""

    def make(cwd: Path) -> None:
        result = launch(
            "finetune", "--run=r", f"--shards={shard_set}", "--max-steps=4", *TINY_RUN,
            "--save-every=2", "--eval-every=4", cwd=cwd,
        )  # fmt: skip
        assert result.returncode == 0, result.stderr

    return made_once(folder_of_all / "trained", make)
