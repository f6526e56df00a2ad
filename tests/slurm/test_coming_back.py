"""Who brings a run back, how often, and when nobody does; on a real Slurm."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from pathlib import Path

import pytest

from tests.conftest import HANGS_SECONDS, wait_for
from tests.slurm.conftest import Cluster, Run, assert_ended_as_if_undisturbed


def test_run_that_may_not_be_requeued_is_followed_by_another_job(
    pair: Run, undisturbed_pair: Run
) -> None:
    pair.submit()

    with pair.held_at(7):
        pair.cluster.run("scontrol", "update", f"JobId={pair.job_id}", "Requeue=0")
        pair.cluster.run("scancel", "--signal=USR2", pair.job_id)

    pair.wait_for_start(2)
    first, second = pair.job_ids
    assert pair.cluster.job(first)["Restarts"] == "0"
    assert pair.cluster.job(second)["JobName"] == pair.cluster.job(first)["JobName"]
    pair.wait_for_end()
    assert pair.events("resumed")[1]["step"] == pair.events("warned")[0]["step"]
    assert_ended_as_if_undisturbed(pair, undisturbed_pair)


def test_run_that_may_not_be_requeued_is_followed_also_where_a_node_of_it_is_lost(
    pair: Run, undisturbed_pair: Run
) -> None:
    pair.submit()

    with pair.held_at(7):
        job = pair.job_id
        pair.cluster.run("scontrol", "update", f"JobId={job}", "Requeue=0")
        pair.cluster.run("scontrol", "update", "NodeName=node2", "State=DOWN", "Reason=test")
        wait_for(lambda: pair.cluster.job(job)["Reason"] == "NodeDown", "the loss of the node")

    pair.wait_for_start(2)
    assert pair.job_ids[0] == job
    assert pair.cluster.job(job)["JobState"] == "NODE_FAIL"
    pair.wait_for_end()
    assert not pair.events("stopped")
    assert_ended_as_if_undisturbed(pair, undisturbed_pair)


@pytest.mark.parametrize("name", ["KILL", "HUP"])
def test_run_whose_batch_script_is_killed_comes_back(
    pair: Run, undisturbed_pair: Run, name: str
) -> None:
    pair.submit()

    with pair.held_at(7):
        pair.cluster.run("scancel", "--batch", f"--signal={name}", pair.job_id)
        wait_for(lambda: pair.state() == "COMPLETING", "the end of the script")

    pair.wait_for_start(2)
    pair.wait_for_end()
    assert [event["step"] for event in pair.events("resumed")] == [
        0,
        pair.events("warned")[0]["step"],
    ]
    assert pair.cluster.job(pair.job_id)["Restarts"] == "1"
    assert_ended_as_if_undisturbed(pair, undisturbed_pair)


def test_fifty_warnings_in_a_second_are_one_where_requeueing_is_off_by_default(
    other_cluster: Cluster, tmp_path: Path, light_shards: Path, undisturbed_pair: Run
) -> None:
    run = Run(other_cluster(num_nodes=2, requeue=0), tmp_path / "run", light_shards, "--gpus=1")
    assert "JobRequeue=0" in run.submit("--dry-run")
    run.submit()
    run.reach(7)

    for number in range(50):
        signum = (signal.SIGUSR2, signal.SIGUSR1)[number % 2]
        for pid in run.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signum)

    run.wait_for_start(2)
    run.wait_for_end()
    assert len(run.events("warned")) == 1
    assert_ended_as_if_undisturbed(run, undisturbed_pair)


def test_ten_faults_in_a_row_leave_no_trace(desk: Run, light_shards: Path) -> None:
    seed = int.from_bytes(os.urandom(2), "little")

    result = desk.launch(
        "drill", "--nodes=2", "--gpus=1", "--cpus-per-task=1", "--time=60", "--random-faults=10",
        f"--seed={seed}", "--steps=40", "--json", f"--shards={light_shards}",
        timeout_seconds=HANGS_SECONDS,
    )  # fmt: skip

    assert result.returncode == 0, result.stdout + result.stderr
    said = json.loads(result.stdout.splitlines()[-1])
    assert said["equal"]
    assert sum(fault["came"] for fault in said["faults"]) == 10
    assert all(fault["seconds_to_come_back"] > 0 for fault in said["faults"])
    receipt = said["receipt"]
    assert sum(receipt["seconds"].values()) == pytest.approx(receipt["wall_seconds"], rel=0.01)
    assert receipt["wall_seconds"] > sum(fault["seconds_to_come_back"] for fault in said["faults"])
    assert "unknown" not in receipt["seconds"]
    assert not list(desk.cwd.glob("drill-*"))


def test_finished_run_is_not_requeued(undisturbed_pair: Run) -> None:
    said = undisturbed_pair.submit()

    assert "is finished: step 30 of 30" in said
    assert len(undisturbed_pair.job_ids) == 1


def test_second_launcher_attaches_and_submits_nothing(pair: Run) -> None:
    pair.submit()
    said = pair.submit()

    assert f"Run r is on Slurm already: job {pair.job_id}" in said
    assert len(pair.job_ids) == 1
    pair.cluster.run("scancel", pair.job_id)
    wait_for(lambda: pair.state() == "CANCELLED", "the end")
