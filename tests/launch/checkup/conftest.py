"""A person's folder on a machine where all is well."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from launch.checkup import doctor, environment
from launch.checkup.environment import Torch
from launch.checkup.finding import Finding
from launch.cluster.gpus import Gpus
from tests.launch.checkup.played_slurm import PlayedSlurm

WITH_CUDA = Torch("2.13.0+cu128", "12.8", 4)


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A person's folder on a machine without Slurm, where torch can use all four GPUs."""
    folder = tmp_path / "desk"
    (folder / "shards" / "mine").mkdir(parents=True)
    (folder / "shards" / "mine" / "manifest.json").write_text("{}")
    monkeypatch.chdir(folder)
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.setenv("PATH", str(empty))
    monkeypatch.setattr(doctor, "ask_torch", lambda: WITH_CUDA)
    monkeypatch.setattr(doctor, "visible_gpus", lambda: Gpus(4))
    monkeypatch.setattr(environment, "resource", limits(4096))
    return folder


def limits(soft: int, hard: int = 8192) -> SimpleNamespace:
    """Return a stand-in for `resource` with such limits of open files."""
    return SimpleNamespace(RLIMIT_NOFILE=7, RLIM_INFINITY=-1, getrlimit=lambda _: (soft, hard))


def failed(findings: list[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.state == "would fail"]


@pytest.fixture
def slurm(desk: Path, tmp_path: Path) -> PlayedSlurm:
    """A healthy cluster on PATH, once a test has changed what it wants."""
    return PlayedSlurm(tmp_path / "bin")
