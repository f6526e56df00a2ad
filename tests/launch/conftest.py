"""Fixtures of the launchers' tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.launch.played_slurm import PlayedSlurm


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PlayedSlurm:
    """A Slurm whose jobs wait until a test says otherwise."""
    return PlayedSlurm(tmp_path / "slurm", monkeypatch)


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """The folder that a person types in."""
    desk = tmp_path / "desk"
    desk.mkdir()
    return desk
