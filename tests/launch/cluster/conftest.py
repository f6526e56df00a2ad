"""A node on which bash runs a batch script."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from launch.cluster import script as module
from launch.cluster.script import Resources, batch_script
from tests.jobs.test_slurm import fake


class Node:
    """A node on which the script of job 7 runs; its Python notes what it is asked."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self._monkeypatch = folder, monkeypatch
        self.clients = folder / "bin"
        self.clients.mkdir()
        (folder / "job.pkl").write_text("the job")
        monkeypatch.setenv("SLURM_JOB_ID", "7")
        monkeypatch.setenv("SLURM_PROCID", "0")
        monkeypatch.setattr(module, "COMEBACK_PAUSE_SECONDS", 0)
        monkeypatch.setattr(module.sys, "executable", str(self.clients / "python"))
        monkeypatch.setattr(module, "LOG_PAUSE_SECONDS", 0)
        self.client("srun", "exit 3")
        self.client("python", "exit 0")

    def client(self, name: str, script: str) -> None:
        """Put a client on the node's PATH."""
        fake(
            self._monkeypatch,
            self.clients,
            name,
            f'echo "{name} $*" >> {self.folder}/asked\n{script}',
        )

    def starts(self, **more: Any) -> subprocess.Popen[bytes]:
        """Start the script of a job that asks for more."""
        script = batch_script(self.folder, Resources("r", 60, "p", **more))
        return subprocess.Popen(["bash", "-c", script], cwd=self.folder)

    def log(self) -> str:
        """Return what the script has said."""
        return (self.folder / "7_0_log.out").read_text()

    def comebacks(self) -> list[str]:
        """Return what the script asked Python for."""
        lines = (self.folder / "asked").read_text().splitlines()
        return [
            line
            for line in lines
            if line.startswith("python -m jobs.patient jobs.survival.comeback")
        ]


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    return Node(tmp_path, monkeypatch)
