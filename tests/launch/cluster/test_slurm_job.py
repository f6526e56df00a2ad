"""What is asked of Slurm about a job that is looked at again and again."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.queueing import note_job
from launch.cluster import slurm as module
from launch.cluster.slurm import SlurmJob
from tests.launch.played_slurm import PlayedSlurm


def test_job_of_somebody_that_has_the_number_of_ours_is_none_of_a_run(
    tmp_path: Path, slurm: PlayedSlurm
) -> None:
    ours, other = tmp_path / "job" / "0000", tmp_path / "job" / "0001"
    ours.mkdir(parents=True)
    note_job(ours, "1")
    slurm.add("1")

    seen = []
    for command, work_dir in (
        (ours / "job.sh", ours), ("/var/spool/copy", ours), (ours / "job.sh", "/"), ("(null)", "/"),
        (other / "job.sh", other), ("/home/me/train.sh", "/home/me"),
    ):  # fmt: skip
        slurm.change("1", Command=str(command), WorkDir=str(work_dir), JobState="RUNNING")
        seen.append(SlurmJob(ours).is_running())

    assert seen == [True] * 4 + [False] * 2


def test_chained_job_that_slurm_has_forgotten_is_asked_about_once(
    tmp_path: Path, slurm: PlayedSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ASK_AGAIN_SECONDS", -1.0)
    for job_id in ("1", "2", "3"):
        note_job(tmp_path, job_id)
    slurm.add("2")
    job = SlurmJob(tmp_path)

    for _ in range(3):
        assert [record.job_id for record in job.records()] == ["2"]

    asked = [line.split()[-1] for line in slurm.asked("scontrol")]
    assert [asked.count(job_id) for job_id in ("1", "2", "3")] == [
        1,
        3,
        3,
    ]  # the newest is never given up
