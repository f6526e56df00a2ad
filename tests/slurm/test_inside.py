"""A run that crashes goes on in the allocation it has: on the same nodes, or without one of them."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from tests.conftest import wait_for
from tests.slurm.cluster import SlurmCluster
from tests.slurm.conftest import Run, assert_ended_as_if_undisturbed


def kill_rank(run: Run, rank: int) -> None:
    """Kill a rank of the newest attempt once it has saved something new."""
    saved = len(run.events("saved"))
    wait_for(lambda: len(run.events("saved")) > saved, "a save")
    os.kill(run.pids()[rank], signal.SIGKILL)


def node_of(pid: int) -> str:
    """Return the node that a rank runs on."""
    words = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    return next(w.partition("=")[2] for w in words if w.startswith("SLURMD_NODENAME="))


def test_run_that_loses_a_rank_goes_on_without_the_queue(pair: Run, undisturbed_pair: Run) -> None:
    pair.submit()
    pair.reach(7)
    kill_rank(pair, 1)
    pair.wait_for_start(2)
    with pair.held_at(14):  # warnings reach the ranks as before, and here the batch script too
        pair.cluster.run("scancel", "--full", "--signal=USR2", pair.job_id)

    pair.wait_for_start(3)
    pair.wait_for_end()

    assert len(pair.events("crashed")) == 1
    assert [event["restarts"] for event in pair.events("started")] == [0, 0, 1]
    assert pair.cluster.job(pair.job_id)["Restarts"] == "1"
    assert pair.events("resumed")[2]["step"] == pair.events("warned")[0]["step"]
    assert_ended_as_if_undisturbed(pair, undisturbed_pair)


def test_node_that_fails_twice_is_left_out_for_one_to_spare(
    cluster: SlurmCluster, tmp_path: Path, light_shards: Path, undisturbed_pair: Run
) -> None:
    run = Run(cluster, tmp_path, light_shards, "--gpus=1", "--spare-nodes=1")
    run.submit()
    with run.held_at(3):
        bad = node_of(run.pids()[0])  # where the batch script runs
    kill_rank(run, 0)
    run.wait_for_start(2)
    kill_rank(run, 0)

    run.wait_for_start(3)
    with run.held():
        assert bad not in {node_of(pid) for pid in run.pids()}
    run.wait_for_end()

    assert run.cluster.job(run.job_id)["Restarts"] == "0"
    assert run.cluster.job(run.job_id)["NumNodes"] == "3"
    assert f"Node {bad} is left out" in run.log()
    assert_ended_as_if_undisturbed(run, undisturbed_pair)
