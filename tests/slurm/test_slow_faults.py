"""
Faults that Slurm takes its time over: lost nodes, cut networks, hangs, a real time limit.

They are set off side by side, each on nodes of its own: what takes a node from one run must not reach
another. Each test looks at one of them.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

import pytest

from tests.conftest import wait_for
from tests.slurm.cluster import SlurmCluster
from tests.slurm.conftest import Run, assert_ended_as_if_undisturbed, boot

Hit = dict[str, Future[Run]]
SAVE_EVERY = 5  # steps, of TINY_RUN
_one_at_a_time = Lock()  # to get going: there are two cores


@pytest.fixture(scope="module")
def hit(
    undisturbed: Run,
    undisturbed_pair: Run,
    tmp_path_factory: pytest.TempPathFactory,
    light_shards: Path,
) -> Iterator[Hit]:
    """All these runs, under way."""
    apart = boot(num_nodes=6, network="netns")
    beside = boot(num_nodes=8)
    cases = {
        reach_time_limit: beside, hang: beside, lose_daemon: beside, lose_power: apart,
        cut_network: apart,
    }  # fmt: skip
    with apart, beside, ThreadPoolExecutor(len(cases)) as pool:
        yield {
            case.__name__: pool.submit(
                case, Run(cluster, tmp_path_factory.mktemp(case.__name__), light_shards)
            )
            for case, cluster in cases.items()
        }


def node_of(run: Run, cluster: SlurmCluster) -> int:
    """Return the number of the last node of a run's job: the batch script is on the first."""
    names = cluster.run("scontrol", "show", "hostnames", cluster.job(run.job_id)["NodeList"])
    return int(names.split()[-1].removeprefix("node"))


@contextmanager
def held(run: Run, *flags: str) -> Iterator[None]:
    """Start a run, and hold it while it is hit."""
    run.submit(*flags)
    with run.held_at(8):
        yield


def lose_power(run: Run) -> Run:
    with _one_at_a_time, held(run, "--gpus=1", "--exclude=node[4-6]"):
        run.cluster.kill_node(node_of(run, run.cluster))
    run.wait_for_start(2)
    run.wait_for_end()
    return run


def cut_network(run: Run) -> Run:
    with _one_at_a_time, held(run, "--gpus=1", "--exclude=node[1-3]"):
        run.cluster.cut(node_of(run, run.cluster))
    run.wait_for_start(2)
    run.wait_for_end()
    return run


def lose_daemon(run: Run) -> Run:
    """All ranks live on without their slurmd, half asleep, until the next attempt trains."""
    with _one_at_a_time, held(run, "--nodes=1", "--gpus=2", "--exclude=node[3-8]"):
        ghosts = run.pids()
        run.cluster.kill_slurmd(node_of(run, run.cluster))
    while len(run.events("resumed")) < 2:
        for pid in ghosts:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(3)  # not a wait for something: how slow they are
        for pid in ghosts:
            os.kill(pid, signal.SIGCONT)
        time.sleep(0.02)
    run.wait_for_end()
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in ghosts), "the ghosts' end")
    return run


def hang(run: Run) -> Run:
    """One rank stands still between two saves: in the middle of one it is given half an hour."""
    with _one_at_a_time:
        run.submit("--exclude=node[1-2],node[6-8]")
        run.reach(8)
        *others, last = run.pids()
        send(signal.SIGSTOP, *others, last)
        while not is_between_saves(run):
            send(signal.SIGCONT, *others, last)
            run.reach(run.step + 1)
            send(signal.SIGSTOP, *others, last)
        send(signal.SIGCONT, *others)
    run.wait_for_start(2)
    run.wait_for_end()
    return run


def send(signum: signal.Signals, *pids: int) -> None:
    for pid in pids:
        os.kill(pid, signum)


def is_between_saves(run: Run) -> bool:
    """Return True if the last save is done, and the next one two steps away at least."""
    done = [event["step"] for event in run.events("saved")]
    return run.step % SAVE_EVERY in (2, 3) and done[-1:] == [run.step // SAVE_EVERY * SAVE_EVERY]


def reach_time_limit(run: Run) -> Run:
    """Asleep until Slurm's own warning wakes the ranks, which takes less than a minute."""
    with _one_at_a_time:
        run.submit("--time=1", "--gpus=1", "--exclude=node[1-5]")
        run.reach(8)
        for pid in run.pids():
            os.kill(pid, signal.SIGSTOP)
    run.wait_for_start(2)
    run.wait_for_end()
    return run


def assert_at_most_a_save_interval_was_lost(run: Run) -> None:
    saved = [event["step"] for event in run.events("saved") if event["attempt"] == 0]
    assert run.events("resumed")[1]["step"] == saved[-1]


def test_run_on_a_node_that_loses_power_comes_back(hit: Hit, undisturbed_pair: Run) -> None:
    run = hit["lose_power"].result()

    assert_at_most_a_save_interval_was_lost(run)
    assert_ended_as_if_undisturbed(run, undisturbed_pair)


def test_run_whose_network_is_cut_comes_back(hit: Hit, undisturbed_pair: Run) -> None:
    run = hit["cut_network"].result()

    assert_at_most_a_save_interval_was_lost(run)
    assert_ended_as_if_undisturbed(run, undisturbed_pair)


def test_attempt_that_lives_on_without_its_slurmd_commits_nothing(
    hit: Hit, undisturbed_pair: Run
) -> None:
    run = hit["lose_daemon"].result()

    # What it commits later than the next attempt looks would be a step further than that one's.
    saved = [int(str(event["step"])) for event in run.events("saved") if event["attempt"] == 0]
    assert max(saved) == run.events("resumed")[1]["step"]
    assert "belongs to attempt 1 now" in str([e for e in run.events("failed") if e["attempt"] == 0])
    assert_ended_as_if_undisturbed(run, undisturbed_pair)


def test_run_that_hangs_says_where_and_comes_back(hit: Hit, undisturbed: Run) -> None:
    run = hit["hang"].result()

    stacks = list((run.folder / "job").glob("*/stacks/*-0000-rank-*.txt"))
    # The stopped rank may be woken by srun, and then writes its own.
    assert {path.stem[-5:] for path in stacks} >= {"00000", "00001", "00002"}, run.log()[-3000:]
    assert "trainer.py" in stacks[0].read_text()
    assert "hangs" in str(run.events("crashed")[0]["error"])
    assert_at_most_a_save_interval_was_lost(run)
    assert_ended_as_if_undisturbed(run, undisturbed)


def test_run_at_its_time_limit_comes_back_and_loses_no_step(
    hit: Hit, undisturbed_pair: Run
) -> None:
    run = hit["reach_time_limit"].result()

    warned = [event["step"] for event in run.events("warned")]
    assert warned
    assert all("SIGUSR2" in str(event["signal"]) for event in run.events("warned"))
    assert [event["step"] for event in run.events("resumed")] == [0, *warned]
    assert run.cluster.job(run.job_id)["TimeLimit"] == "00:01:00"
    assert_ended_as_if_undisturbed(run, undisturbed_pair)
