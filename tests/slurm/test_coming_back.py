"""Who brings a run back, how often, and when nobody does; on a real Slurm."""

from __future__ import annotations

import contextlib
import os
import random
import signal
from pathlib import Path

from tests.conftest import wait_for
from tests.slurm.cluster import SlurmCluster
from tests.slurm.conftest import Cluster, Run, assert_ended_as_if_undisturbed, unhit


def test_run_that_may_not_be_requeued_is_followed_by_another_job(
    pair: Run, undisturbed_pair: Run
) -> None:
    pair.submit()
    pair.reach(7)
    pair.cluster.run("scontrol", "update", f"JobId={pair.job_id}", "Requeue=0")

    pair.cluster.run("scancel", "--signal=USR2", pair.job_id)

    pair.wait_for_start(2)
    first, second = pair.job_ids
    assert pair.cluster.job(first)["Restarts"] == "0"
    assert pair.cluster.job(second)["JobName"] == pair.cluster.job(first)["JobName"]
    pair.wait_for_end()
    assert pair.events("resumed")[1]["step"] == pair.events("warned")[0]["step"]
    assert_ended_as_if_undisturbed(pair, undisturbed_pair)


def test_fifty_warnings_in_a_second_are_one_where_requeueing_is_off_by_default(
    other_cluster: Cluster, tmp_path: Path, shard_set: Path, undisturbed_pair: Run
) -> None:
    run = Run(other_cluster(num_nodes=2, requeue=0), tmp_path / "run", shard_set, "--gpus=1")
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


def test_ten_faults_in_a_row_leave_no_trace(
    cluster: SlurmCluster, tmp_path: Path, shard_set: Path
) -> None:
    long = ("--gpus=1", "--max-steps=70", "--save-every=1")
    undisturbed = unhit(cluster, tmp_path / "undisturbed", shard_set, *long)
    pair = Run(cluster, tmp_path / "hit", shard_set, *long)
    seed = int.from_bytes(os.urandom(4), "little")
    draw = random.Random(seed)
    faults = [draw.choice(("USR2", "USR1", "requeue", "KILL", "ABRT")) for _ in range(10)]
    print(f"seed {seed}: {faults}")
    pair.submit()
    for number, fault in enumerate(faults, start=1):
        pair.wait_for_start(number)
        # A step further than the last save: three crashes that made no progress would be the end.
        pair.reach(int(str(pair.events("resumed")[-1]["step"])) + 2)
        if fault == "requeue":
            pair.cluster.run("scontrol", "requeue", pair.job_id)
        elif fault.startswith("USR"):
            pair.cluster.run("scancel", f"--signal={fault}", pair.job_id)
        else:
            os.kill(draw.choice(pair.pids()), getattr(signal, f"SIG{fault}"))

    pair.wait_for_start(11)
    pair.wait_for_end()
    assert pair.hashes(70) == undisturbed.hashes(70)
    assert pair.samples() == undisturbed.samples()


def test_finished_run_is_not_requeued(undisturbed_pair: Run) -> None:
    said = undisturbed_pair.submit()

    assert "is finished: step 30 of 30" in said
    assert undisturbed_pair.cluster.job(undisturbed_pair.job_id)["Restarts"] == "0"
    assert len(undisturbed_pair.job_ids) == 1


def test_second_launcher_attaches_and_submits_nothing(pair: Run) -> None:
    pair.submit()
    said = pair.submit()

    assert f"Run r is on Slurm already: job {pair.job_id}" in said
    assert len(pair.job_ids) == 1
    pair.cluster.run("scancel", pair.job_id)
    wait_for(lambda: pair.state() == "CANCELLED", "the end")
