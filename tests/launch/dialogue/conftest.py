"""Fixtures of the tests of conversations."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import TINY_RUN, launch, made_once
from tests.launch.dialogue.played_speaker import PlayedSpeaker, served


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


@pytest.fixture
def speaker() -> PlayedSpeaker:
    """A model that answers at once."""
    return PlayedSpeaker()


@pytest.fixture
def url(speaker: PlayedSpeaker) -> Iterator[str]:
    """The address of a server for it."""
    with served(speaker) as (url, _):
        yield url
