"""
What clusters do to a job, on a real Slurm, one test a row of docs/preemption.md.

Each run has two nodes, with a rank each or two where other ranks of a node matter, is hit from
outside, and ends with the bits of an undisturbed one; or it does not come back, where it must not.
Judged by the run's own ledger, by `scontrol show
job` and by the last checkpoint.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.conftest import wait_for
from tests.slurm.conftest import Cluster, Run, assert_ended_as_if_undisturbed


def test_run_that_is_warned_and_then_requeued_by_somebody_loses_no_step(
    pair: Run, undisturbed_pair: Run
) -> None:
    pair.submit()
    # What a kill in the middle of an earlier requeue leaves: submitit stumbles over it.
    (pair.folder / "job" / "0000" / f"{pair.job_id}_submitted.pkl.save_tmp").touch()

    with pair.held_at(7):
        pair.cluster.run("scancel", "--signal=USR2", pair.job_id)
    pair.wait_for_start(2)
    with pair.held_at(15):
        pair.cluster.run("scontrol", "requeue", pair.job_id)

    pair.wait_for_start(3)
    pair.wait_for_end()
    warned = [event["step"] for event in pair.events("warned")]
    first, second = warned_by(pair)
    assert "SIGUSR2" in first
    assert "SIGTERM" in second
    assert [event["step"] for event in pair.events("resumed")] == [0, *warned]
    assert pair.cluster.job(pair.job_id)["Restarts"] == "2"
    assert len(pair.events("requeued")) == 2
    # The log goes on; a crash, of a node that is too busy to start its rank in time, is told.
    log = pair.log()
    assert log.count("=== start") == 3 + log.count("Starting again."), log
    assert_ended_as_if_undisturbed(pair, undisturbed_pair)


def test_cancelled_run_saves_and_stays_away_until_it_is_wanted_again(
    pair: Run, undisturbed_pair: Run
) -> None:
    pair.submit()

    with pair.held_at(7):
        pair.cluster.run("scancel", pair.job_id)

    pair.wait_for_end("CANCELLED")
    assert pair.events("stopped")
    assert pair.cluster.job(pair.job_id)["Restarts"] == "0"
    pair.submit()
    pair.wait_for_end()
    assert pair.events("resumed")[1]["step"] == pair.events("stopped")[0]["step"]
    assert_ended_as_if_undisturbed(pair, undisturbed_pair)


def warned_by(run: Run) -> list[str]:
    """Return for each save of a warned run what came; its own look at the time may be as quick."""
    return [str(event["signal"]) for event in run.events("warned")]


def preempt_at(run: Run, step: int) -> None:
    """Have a job of a better partition take all nodes, for a moment."""
    with run.held_at(step):
        run.cluster.run(
            *("sbatch", "--partition=high", "--nodes=2", "--exclusive", "--output=/dev/null"),
            "--wrap=true",
        )
        wait_for(lambda: is_preempted(run), "Slurm's preemption")


def is_preempted(run: Run) -> bool:
    """Return whether Slurm has begun to take the run's nodes; it may have put it back into the queue."""
    job = run.cluster.job(run.job_id)
    return job.get("PreemptTime", "None") != "None" or job.get("Restarts", "0") != "0"


@pytest.mark.parametrize(
    ("send_user_signal", "kill_on_bad_exit", "ranks_a_node"), [(True, 0, 2), (False, 1, 1)]
)
def test_run_that_is_preempted_and_then_loses_a_rank_comes_back_twice(
    other_cluster: Cluster,
    tmp_path: Path,
    light_shards: Path,
    undisturbed: Run,
    undisturbed_pair: Run,
    send_user_signal: bool,
    kill_on_bad_exit: int,
    ranks_a_node: int,
) -> None:
    cluster = other_cluster(
        num_nodes=2, send_user_signal=send_user_signal, kill_on_bad_exit=kill_on_bad_exit
    )
    run = Run(cluster, tmp_path / "run", light_shards, f"--gpus={ranks_a_node}")
    run.submit()

    preempt_at(run, 6)
    run.wait_for_start(2)
    rank = (0, 1)[kill_on_bad_exit]
    with run.held_at(14):
        os.kill(run.pids()[rank], signal.SIGKILL)

    run.wait_for_start(3)
    run.wait_for_end()
    assert ("SIGUSR2" if send_user_signal else "SIGTERM") in warned_by(run)[0]
    saved = [event["step"] for event in run.events("saved") if event["attempt"] < 2]
    resumed = [event["step"] for event in run.events("resumed")]
    # Slurm 24.11 requeues such a job once more after its end: that start has no ranks.
    assert resumed == [0, run.events("warned")[0]["step"], saved[-1]]
    [crashed] = run.events("crashed")
    assert f"rank {rank} on node{1 + rank}: Killed" in str(crashed["error"]), run.log()[-6000:]
    assert_ended_as_if_undisturbed(run, undisturbed if ranks_a_node == 2 else undisturbed_pair)


@pytest.mark.parametrize(("send_user_signal", "kill_on_bad_exit"), [(True, 1), (False, 0)])
def test_run_of_a_rank_a_node_that_is_preempted_comes_back(
    other_cluster: Cluster,
    tmp_path: Path,
    light_shards: Path,
    undisturbed_pair: Run,
    send_user_signal: bool,
    kill_on_bad_exit: int,
) -> None:
    cluster = other_cluster(
        num_nodes=2, send_user_signal=send_user_signal, kill_on_bad_exit=kill_on_bad_exit
    )
    run = Run(cluster, tmp_path / "run", light_shards, "--gpus=1")
    run.submit()

    preempt_at(run, 6)

    run.wait_for_start(2)
    run.wait_for_end()
    assert ("SIGUSR2" if send_user_signal else "SIGTERM") in warned_by(run)[0]
    resumed = [event["step"] for event in run.events("resumed")]
    assert resumed == [0, run.events("warned")[0]["step"]]
    assert_ended_as_if_undisturbed(run, undisturbed_pair)
