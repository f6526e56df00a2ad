"""Why a start ended."""

from __future__ import annotations

import pytest

from jobs.failures import Failure
from jobs.survival.crash import Crash, cause_of


def report(rank: int, error: str, retry: bool = True) -> Failure:
    return Failure(0.0, rank, f"node{rank}", error, "T", retry)


def test_cause_is_the_rank_that_was_killed_not_those_that_lost_it() -> None:
    said = (
        "srun: error: node2: task 3: Killed\nsrun: Terminating StepId=1.0\n"
        "srun: error: node1: tasks 0-1: Exited with exit code 1\n"
    )

    cause = cause_of([report(0, "Connection closed by peer")], said)

    assert cause == Crash("rank 3 on node2: Killed.", "", "node2", True)


@pytest.mark.parametrize(
    ("late", "error"),
    [
        ("task 3: Killed", "rank 3 on node2: Killed."),  # its peer's node was quicker to tell
        ("task 3: Terminated", "Connection closed by peer"),  # by srun
        ("task 0: Killed", "Connection closed by peer"),  # which had reported before
        ("tasks 2-3: Killed", "Connection closed by peer"),  # at once, by Slurm
    ],
)
def test_rank_whose_peer_was_heard_of_first_is_the_cause_if_somebody_killed_it(
    late: str, error: str
) -> None:
    said = (
        "srun: error: node1: task 0: Exited with exit code 1\nsrun: Terminating StepId=1.0\n"
        f"srun: error: node2: {late}\nsrun: Force Terminated StepId=1.0\n"
        "srun: error: node1: task 1: Killed\n"
    )

    assert cause_of([report(0, "Connection closed by peer")], said).error == error
    for own in ("ValueError: its own", "rank 3 hangs: its step takes longer than 600 s"):
        assert cause_of([report(0, own)], said).error == own


def test_what_kept_a_rank_from_beginning_is_told() -> None:
    said = (
        "=== start 0000000007-0000 on node1 at 2026-11-28T17:25:46Z\nWARNING: no passwd file\n"
        "\x1b[91mERROR  : image torch.sif is no image\n\x1b[0msrun: error: node1: task 0: Exited with "
        "exit code 1\nsrun: Terminating StepId=4.0\nwhat comes after\n"
    )

    told = cause_of([], said).error
    of_one_that_trained = cause_of(
        [], said.replace("ERROR  :", "2026-11-28T17:25:46 rank 0").replace("WARNING:", "===")
    )

    assert told == (
        "rank 0 on node1: Exited with exit code 1. The last that was said before: "
        "ERROR  : image torch.sif is no image"
    )
    assert of_one_that_trained.error == "rank 0 on node1: Exited with exit code 1."


def test_cause_is_the_first_report_where_ranks_ended_by_themselves() -> None:
    said = "srun: error: node[1-2]: tasks 0-3: Exited with exit code 1\n"

    cause = cause_of([report(2, "disk on fire"), report(0, "lost rank 2")], said)

    assert (cause.error, cause.node) == ("disk on fire", "node2")


def test_node_on_which_nothing_could_be_launched_is_named() -> None:
    said = (
        "srun: error: Task launch for StepId=1.0 failed on node n7: Communication connection failure\n"
        "srun: error: Application launch failed: Communication connection failure\n"
        "srun: Job step aborted: Waiting up to 32 seconds for job step to finish.\n"
    )

    assert cause_of([], said).node == "n7"


@pytest.mark.parametrize(
    ("said", "memory", "told"),
    [
        ("srun: error: node1: task 0: Out Of Memory", "2048", "the job's 2.0 GB of memory on"),
        ("srun: error: node1: task 0: Out Of Memory", "", "the job's memory on"),
        (
            "srun: error: node1: task 0: Killed\n"
            "slurmstepd: error: Detected 1 oom_kill event in StepId=7.0. Some of the step tasks",
            "512", "the job's 0.5 GB of memory on",
        ),
        ("slurmstepd: error: Exceeded job memory limit\nsrun: error: node1: task 0: Killed", "512",
         "the job's 0.5 GB"),
    ],
)  # fmt: skip
def test_rank_that_runs_out_of_memory_is_told_with_the_flag_and_no_node_is_blamed(
    monkeypatch: pytest.MonkeyPatch, said: str, memory: str, told: str
) -> None:
    monkeypatch.setenv("SLURM_MEM_PER_NODE", memory)

    crash = cause_of([], said)

    assert crash.error.startswith(f"rank 0 on node1 was killed: {told}")
    assert crash.error.endswith("Raise --mem.")
    assert (crash.node, crash.retry) == ("", True)


def test_what_befalls_two_nodes_at_once_is_neithers_fault() -> None:
    missing = "Shards x are not finished: no manifest.json."

    cause = cause_of(
        [report(2, missing), report(0, missing), report(1, "Connection closed by peer")]
    )

    assert (cause.error, cause.node) == (missing, "")


@pytest.mark.parametrize(
    ("error", "node"),
    [
        ("RuntimeError: pair.cc:537 Read error: Connection reset by peer", ""),
        ("DistBackendError: NCCL error: unhandled system error", "node1"),
    ],
)
def test_node_of_a_rank_whose_peer_is_gone_is_not_to_blame_for_it(error: str, node: str) -> None:
    """Where srun's word of who was killed could not be read: the survivor's node was excluded."""
    cause = cause_of([report(1, error)])

    assert (cause.error, cause.node) == (error, node)
