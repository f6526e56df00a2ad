"""
A played Slurm for what a launcher asks and says: clients on PATH that read and write plain files.

    slurm = PlayedSlurm(tmp_path / "slurm", monkeypatch)
    launch("finetune", ..., cwd=desk)
    slurm.change("1", JobState="PENDING", Reason="DependencyNeverSatisfied")

It runs nothing: a job is the line that `scontrol show job` prints. What a real Slurm does with a job
is for tests/slurm/.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

PARTITION = "PartitionName=low Default=YES State=UP MaxTime=1-00:00:00"
NODE = "NodeName=node{n} CPUTot=4 RealMemory=64000 Gres={gres} Partitions=low AvailableFeatures=a"
JOB = (
    "JobId={id} JobName=x JobState=PENDING Reason=Resources Restarts=0 Requeue=1 StartTime={start} "
    "EndTime=Unknown NodeList=(null) ExcNodeList=(null) Command={script} WorkDir=/"
)
SCONTROL = """
case "$*" in
*'show partition'*) echo '{partition}';;
*'show node'*) printf '{nodes}';;
*'show config'*) echo 'MaxArraySize = 1001'; echo 'JobRequeue = 1';;
*'show job'*) [ -e silent ] && {{ echo 'Socket timed out' >&2; exit 1; }}
    [ $# = 3 ] && {{ cat jobs/* 2>/dev/null || echo 'No jobs in the system'; exit; }}
    cat jobs/$4 2>/dev/null || {{ echo 'Invalid job id specified' >&2; exit 1; }};;
esac"""
SBATCH = """
case "$*" in *--test-only*) echo 'sbatch: Job 9 to start at {start} using 1' >&2; exit 0;; esac
id=$(( $(ls jobs | wc -l) + 1 ))
echo "{job}" > jobs/$id
cp "$2" jobs-$id.sh
echo $id"""
SCANCEL = """
for id in "$@"; do
    [ -e jobs/$id ] && sed -i s/JobState=[A-Z]*/JobState=CANCELLED/ jobs/$id
done"""


class PlayedSlurm:
    """
    The clients of a small cluster without GPUs.

    Args:
        folder: Theirs.
        monkeypatch: Puts them on PATH.
        start: When every job is expected to start.
    """

    def __init__(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, start: str = "2100-01-01T08:00:00"
    ) -> None:
        self.folder = folder
        (folder / "jobs").mkdir(parents=True)
        job = JOB.format(id="$id", start=start, script="$2")
        self.gpus("(null)")
        self.client("sbatch", SBATCH.format(start=start, job=job))
        self.client("scancel", SCANCEL)
        self.client("sinfo", "echo low")
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def gpus(self, gres: str) -> None:
        """Say which GPUs each node has."""
        nodes = "".join(NODE.format(n=n, gres=gres) + "\\n" for n in (1, 2))
        self.client("scontrol", SCONTROL.format(partition=PARTITION, nodes=nodes))

    def client(self, name: str, script: str) -> None:
        """Say what a client does."""
        path = self.folder / name
        note = f"cd {self.folder}; echo {name} $* >> asked"
        path.write_text(f"#!/bin/sh\n{note}\n{script}\n")
        path.chmod(0o755)

    def is_away(self) -> None:
        """Have the controller answer nobody from now on."""
        for name in ("scontrol", "sbatch", "scancel", "sinfo"):
            self.client(name, "echo 'Unable to contact slurm controller' >&2; exit 1")

    def is_silent_about_jobs(self) -> None:
        """Have questions about jobs fail from now on, and nothing else."""
        (self.folder / "silent").touch()

    def asked(self, client: str) -> list[str]:
        """Return the command lines of a client so far."""
        path = self.folder / "asked"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line for line in lines if line.split()[0] == client]

    @property
    def jobs(self) -> list[str]:
        """Ids of all jobs that were ever queued."""
        return sorted(path.name for path in (self.folder / "jobs").iterdir())

    def add(self, job_id: str) -> None:
        """Have a job wait that nobody has queued."""
        (self.folder / "jobs" / job_id).write_text(
            JOB.format(id=job_id, start="Unknown", script="(null)") + "\n"
        )

    def change(self, job_id: str, **facts: str) -> None:
        """Change what Slurm says of a job."""
        path = self.folder / "jobs" / job_id
        words = dict(word.split("=", 1) for word in path.read_text().split())
        path.write_text(" ".join(f"{key}={value}" for key, value in (words | facts).items()) + "\n")

    def state(self, job_id: str) -> str:
        """Return a job's state."""
        words = (self.folder / "jobs" / job_id).read_text().split()
        return next(w.partition("=")[2] for w in words if w.startswith("JobState="))
