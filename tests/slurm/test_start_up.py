"""Faults that come before the ranks listen, and a disk that is away when a job should come back."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest

from tests.conftest import REPO, wait_for
from tests.slurm.cluster import SlurmCluster
from tests.slurm.conftest import ONE_RANK, Run, assert_ended_as_if_undisturbed

# Loaded by every Python of the job, which has the project's folder on its path.
WAITS_AT_THE_FIRST_START = """
import os, pathlib, signal, sys
if "SLURM_PROCID" in os.environ and os.environ.get("SLURM_RESTART_COUNT", "0") == "0":
    if "jobs.survival.rank" in " ".join(sys.orig_argv):
        pathlib.Path(os.environ["INSTRUCT_JOB"], "waits-" + os.environ["SLURM_PROCID"]).touch()
        signal.pause()
"""
IS_AWAY_TWICE = """
import os, pathlib, sys
if "jobs.survival.comeback" in " ".join(sys.orig_argv):
    asked = pathlib.Path(os.environ["INSTRUCT_JOB"], "asked")
    with asked.open("a") as file:
        file.write("x")
    if asked.stat().st_size < 3:
        os._exit(1)
"""


def run_of(cluster: SlurmCluster, folder: Path, shards: Path, start_up: str) -> Run:
    """Return a run whose Pythons do something when they start."""
    project = folder / "project"
    for package in ("launch", "jobs", "instruct_core"):
        shutil.copytree(REPO / package, project / package)
    (project / "sitecustomize.py").write_text(start_up)
    return Run(cluster, folder / "desk", shards, "--gpus=1", code=project)


@pytest.mark.parametrize("signum", ["TERM", "USR1"])
def test_run_that_is_warned_before_it_listens_comes_back(
    signum: str, cluster: SlurmCluster, tmp_path: Path, light_shards: Path, undisturbed_pair: Run
) -> None:
    run = run_of(cluster, tmp_path, light_shards, WAITS_AT_THE_FIRST_START)
    run.submit()
    job = run.folder / "job" / "0000"
    wait_for(lambda: len(list(job.glob("waits-*"))) == 2, "both ranks")

    cluster.run("scancel", f"--signal={signum}", run.job_id)

    run.wait_for_end()
    assert cluster.job(run.job_id)["Restarts"] == "1"
    assert not (job / "crashes.json").exists()
    assert_ended_as_if_undisturbed(run, undisturbed_pair)


def test_run_comes_back_though_python_could_not_be_read_at_first(
    cluster: SlurmCluster, tmp_path: Path, light_shards: Path, undisturbed_pair: Run
) -> None:
    run = run_of(cluster, tmp_path, light_shards, IS_AWAY_TWICE)
    run.submit()

    with run.held_at(7):
        os.kill(run.pids()[1], signal.SIGKILL)

    run.wait_for_start(2)
    run.wait_for_end()
    assert_ended_as_if_undisturbed(run, undisturbed_pair)


def test_run_whose_log_cannot_be_opened_begins_when_it_can_be(
    cluster: SlurmCluster, tmp_path: Path, light_shards: Path
) -> None:
    """The script has its own log open already."""
    in_the_way = 'log=${SLURM_JOB_ID}_0_log.out; mv "$log" early; mkdir "$log"'
    run = Run(cluster, tmp_path, light_shards, *ONE_RANK, f"--setup={in_the_way}")
    run.submit()
    job = run.folder / "job" / "0000"
    early = job / "early"
    wait_for(lambda: early.exists() and "Is a directory" in early.read_text(), "the rank's shell")
    (job / f"{run.job_id}_0_log.out").rmdir()

    run.wait_for_end()

    assert run.events("finished")
    assert cluster.job(run.job_id)["Restarts"] == "0"
    assert "rank 0 finished" in run.log()
