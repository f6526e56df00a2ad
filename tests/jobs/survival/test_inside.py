"""Whether a crashed job starts anew on the nodes it has; Slurm is a shell script here."""

from __future__ import annotations

import json
import time
from datetime import datetime
from typing import Any

import pytest

from jobs.failures import read_outcome, write_failure
from jobs.job_folder import Progress, write_progress
from jobs.survival import comeback
from jobs.survival.comeback import decide_comeback
from jobs.survival.inside import left_out_file
from jobs.survival.requeue import judge_crash, starts_without_progress
from tests.jobs.survival.conftest import Batch


class Allocation(Batch):
    """A batch script that can start its ranks anew, an hour before its time limit."""

    def has_left(self, seconds: float, state: str = "RUNNING") -> None:
        """Say how far the time limit is."""
        end, now = (
            datetime.fromtimestamp(time.time() + ahead).isoformat(timespec="seconds")
            for ahead in (seconds, 0)
        )
        self.slurm_facts = f"EndTime={end}"
        clock = f"case $* in *config*) echo 'Configuration data as of {now}'; exit;; esac"
        self.slurm(state, more=clock)

    def crashes(
        self, committed: int, error: str = "ZeroDivisionError: x", node: str = "node1"
    ) -> bool:
        """Have a rank fail in another start, and return whether the ranks begin anew right here."""
        if number := len(list(self.folder.glob("failure-*"))):
            self.start(1 + number)
        write_progress(self.folder, Progress(state="running", committed=committed))
        write_failure(self.folder, 1, error, "Traceback ...", retry=True, node=node)
        return decide_comeback()


@pytest.fixture
def batch(tmp_path, monkeypatch: pytest.MonkeyPatch) -> Allocation:  # type: ignore[no-untyped-def]
    allocation = Allocation(tmp_path, monkeypatch)
    monkeypatch.setenv("INSTRUCT_INSIDE", "0")
    monkeypatch.setenv("INSTRUCT_LEAD", "120")
    monkeypatch.setenv("INSTRUCT_SPARE_NODES", "0")
    monkeypatch.setenv("INSTRUCT_LEFT_OUT_FILE", str(tmp_path / "left-out"))
    monkeypatch.delenv("INSTRUCT_LEFT_OUT", raising=False)
    allocation.has_left(3600)
    return allocation


def test_crash_that_is_no_nodes_fault_needs_no_queue(batch: Allocation) -> None:
    assert batch.crashes(committed=5)

    assert batch.asked() == []


def test_rank_that_was_killed_needs_none_either(batch: Allocation) -> None:
    batch.said("srun: error: node2: task 3: Killed")

    assert decide_comeback()

    assert batch.asked() == []


@pytest.mark.parametrize("left", [1, 200])
def test_job_whose_time_is_nearly_up_is_requeued(batch: Allocation, left: int) -> None:
    batch.has_left(left)

    assert not batch.crashes(committed=5)

    assert batch.asked() == ["scontrol requeue 7"]


@pytest.mark.parametrize(
    "said",
    [
        "srun: error: Task launch for StepId=7.0 failed on node node2: Communication connection failure",
        "srun: error: Timed out waiting for job step to complete",
        "srun: error: Node failure on node2",
    ],
)  # fmt: skip
def test_node_that_does_not_answer_is_left_to_slurm(batch: Allocation, said: str) -> None:
    batch.said(said)

    assert not decide_comeback()

    assert "scontrol requeue 7" in batch.asked()


@pytest.mark.parametrize(
    "error",
    ["RuntimeError: CUDA error: uncorrectable ECC error encountered",
     "RuntimeError: Slurm gave this job GPUs on node1, and torch 2.13.0 finds none there."],
)  # fmt: skip
def test_node_whose_gpus_fail_is_left_at_once(batch: Allocation, error: str) -> None:
    assert not batch.crashes(committed=5, error=error)

    assert batch.asked() == ["scontrol requeue 7"]


def test_node_that_fails_twice_in_a_row_is_left_out_where_one_is_to_spare(
    batch: Allocation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INSTRUCT_SPARE_NODES", "1")

    assert batch.crashes(committed=5)
    assert not left_out_file().exists()
    assert batch.crashes(committed=6)
    assert left_out_file().read_text() == "node1"
    monkeypatch.setenv("INSTRUCT_LEFT_OUT", "node1")
    assert batch.crashes(committed=7, error="IndexError: x", node="node3")
    assert not batch.crashes(
        committed=8, error="IndexError: x", node="node3"
    )  # no second one to spare

    assert batch.asked()[0] == "scontrol requeue 7"
    assert left_out_file().read_text() == "node1"


def test_node_that_cannot_be_written_down_is_left_to_the_queue_and_its_crash_counted_once(
    batch: Allocation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INSTRUCT_SPARE_NODES", "1")
    batch.crashes(committed=5)
    left_out_file().mkdir()  # as good as a disk that refuses it

    assert not batch.crashes(committed=6)

    assert "scontrol requeue 7" in batch.asked()
    assert json.loads((batch.folder / "crashes.json").read_text())["in_a_row"] == 1


def test_node_that_fails_twice_in_a_row_is_excluded_by_a_requeue_where_none_is(
    batch: Allocation,
) -> None:
    assert batch.crashes(committed=5)

    assert not batch.crashes(committed=6)

    assert batch.asked()[0] == "scontrol requeue 7"


def test_third_crash_without_progress_is_the_last_here_too(batch: Allocation) -> None:
    assert batch.crashes(committed=5, node="node1")
    assert batch.crashes(committed=5, node="node2")

    assert not batch.crashes(committed=5, node="node3")

    assert batch.asked() == []
    outcome = read_outcome(batch.folder)
    assert outcome is not None
    assert outcome.traceback == "Traceback ..."  # of the first rank that failed


def test_job_that_was_told_to_end_is_not_started_again_here(
    batch: Allocation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INSTRUCT_TOLD_TO_END", "1")

    assert not batch.crashes(committed=5)


def test_cancelled_job_is_not_started_again_here(batch: Allocation) -> None:
    batch.slurm(state="COMPLETING")

    assert not batch.crashes(committed=5)

    assert batch.asked() == []


def test_job_that_is_cancelled_while_its_crash_is_judged_is_not_started_again_here(
    batch: Allocation, monkeypatch: pytest.MonkeyPatch
) -> None:
    def judge(*words: Any) -> tuple[bool, str]:
        batch.has_left(3600, state="COMPLETING")
        return judge_crash(*words)

    monkeypatch.setattr(comeback, "judge_crash", judge)

    assert not batch.crashes(committed=5)

    assert batch.asked() == []


def test_store_that_is_away_is_waited_for_in_the_queue(batch: Allocation) -> None:
    write_failure(batch.folder, 1, "a store is away", "", retry=True, node="", away=True)

    assert not decide_comeback()

    assert batch.asked() == ["scontrol requeue 7"]
    assert not (batch.folder / "crashes.json").exists()


def test_starts_within_an_allocation_are_counted(
    batch: Allocation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INSTRUCT_START", "0000000007-0002x001")
    write_progress(batch.folder, Progress(state="running", committed=5))
    counts = []
    for start in (
        "0000000007-0002x001",
        "0000000007-0002x004",
        "0000000007-0003",
        "0000000007-0003x002",
    ):
        monkeypatch.setenv("INSTRUCT_START", start)
        counts.append(starts_without_progress(batch.folder))

    assert counts == [0, 3, 1, 3]
    assert json.loads((batch.folder / "progress-0000000007-0002x001.json").read_text())
