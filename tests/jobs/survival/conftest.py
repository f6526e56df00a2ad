"""A batch script's world, with clients that are shell scripts; and a scheduler with a clock."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from instruct_core.storage import patience
from jobs import job_folder
from jobs.survival import comeback
from tests.jobs.survival.scheduler import Scheduler
from tests.jobs.test_slurm import fake

JOB = "JobId=7 JobState={state} Restarts={restarts} Requeue={requeue} Partition=low ExcNodeList=(null)"


class Batch:
    """A batch script's world: a job folder, and clients that note what they were asked."""

    slurm_facts = ""  # said of the job before all others, which counts

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self._monkeypatch = folder, monkeypatch
        self._clients = folder / "bin"
        self._clients.mkdir()
        (folder / "log").write_text("=== start 0001 on node[1-2]\n")
        for name, value in {
            "SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "2", "INSTRUCT_JOB": str(folder),
            "INSTRUCT_START": "0001", "INSTRUCT_LOG": str(folder / "log"),
            "INSTRUCT_SCRIPT": str(folder / "job.sh"),
        }.items():  # fmt: skip
            monkeypatch.setenv(name, value)
        for name in ("SLURM_ARRAY_TASK_ID", "SLURM_RESTART_COUNT", "INSTRUCT_TOLD_TO_END"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(comeback, "RETRY_SECONDS", 0.0)
        monkeypatch.setattr(job_folder, "READ_SECONDS", 0.01)
        monkeypatch.setattr(patience, "FIRST_PAUSE_SECONDS", 0.0)
        self.slurm()

    def slurm(
        self, state: str = "RUNNING", restarts: int = 0, requeue: int = 1, more: str = ""
    ) -> None:
        """Say what Slurm answers."""
        line = f"{self.slurm_facts} {JOB.format(state=state, restarts=restarts, requeue=requeue)}"
        asked = f'echo "$(basename $0) $*" >> {self.folder}/asked\n'
        show = f"case $* in *'show job'*) echo '{line}';; *hostnames*) echo $3 | tr , '\\n';; esac"
        fake(self._monkeypatch, self._clients, "scontrol", f"{asked}{more}\n{show}")
        fake(self._monkeypatch, self._clients, "sbatch", f"{asked}echo 8")
        self.kinds('"node$n|gpu:4|x"')

    def kinds(self, line: str) -> None:
        """Say what sinfo tells of each of three nodes."""
        nodes = f"for n in 1 2 3; do case $* in *%G*) echo {line};; *) echo node$n;; esac; done"
        fake(self._monkeypatch, self._clients, "sinfo", nodes)

    def take_away(self, client: str) -> None:
        """Have a client that is nowhere on PATH, whatever is installed on this machine."""
        (self._clients / client).unlink()
        tools = self.folder / "tools"
        tools.mkdir()
        for name in ("sh", "basename", "tr"):
            (tools / name).symlink_to(str(shutil.which(name)))
        self._monkeypatch.setenv("PATH", f"{self._clients}:{tools}")

    def start(self, number: int) -> None:
        """Begin another start of the job."""
        self._monkeypatch.setenv("INSTRUCT_START", f"{number:04d}")
        self.said(f"=== start {number:04d} on node[1-2]")

    def said(self, line: str) -> None:
        """Have srun say something in this start."""
        with (self.folder / "log").open("a") as log:
            log.write(f"{line}\n")

    def asked(self) -> list[str]:
        """Return what Slurm was asked to do, without the questions."""
        path = self.folder / "asked"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line for line in lines if " show " not in line]


@pytest.fixture
def batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Batch:
    return Batch(tmp_path, monkeypatch)


@pytest.fixture
def scheduler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scheduler]:
    monkeypatch.setenv("INSTRUCT_JOB", str(tmp_path))
    monkeypatch.setenv("INSTRUCT_START", "0000000007-0000")
    scheduler = Scheduler(monkeypatch)
    before = signal.signal(signal.SIGUSR1, lambda signum, frame: scheduler.warned.append(signum))
    yield scheduler
    signal.signal(signal.SIGUSR1, before)
