"""Starts that ended because the disk failed that the code, the reports and the log lie on."""

from __future__ import annotations

import errno
import signal

import pytest

from jobs.job_folder import read_outcome
from jobs.survival.comeback import decide_comeback
from jobs.survival.crash import cause_of
from tests.jobs.survival.conftest import Batch

PYTHON_SAYS = (
    f"OSError: [Errno {errno.EIO}] Input/output error",
    f"OSError: [Errno {errno.ESTALE}] Stale file handle: '/d/code/jobs/patient.py'",
    "/usr/bin/python3: Error while finding module specification for 'jobs.patient' "
    "(ModuleNotFoundError: No module named 'jobs')",
    "ModuleNotFoundError: No module named 'instruct_core.config'",
)


@pytest.mark.parametrize("word", PYTHON_SAYS)
def test_rank_whose_code_could_not_be_read_is_no_crash_and_no_fault_of_its_node(
    batch: Batch, word: str
) -> None:
    batch.said(word)
    batch.said("srun: error: node1: task 0: Exited with exit code 1")
    for _ in range(5):
        decide_comeback()

    assert batch.asked() == ["scontrol requeue 7"] * 5


def test_rank_whose_python_lacks_a_package_is_a_crash(batch: Batch) -> None:
    batch.said("ModuleNotFoundError: No module named 'torch'")
    batch.said("srun: error: node1: task 0: Exited with exit code 1")
    for _ in range(4):
        decide_comeback()

    assert batch.asked().count("scontrol requeue 7") == 2


def test_start_of_which_nobody_could_leave_a_word_is_no_crash(batch: Batch) -> None:
    """The log has the script's own first line, and the disk took nothing after it."""
    for _ in range(12):
        decide_comeback()

    assert batch.asked() == ["scontrol requeue 7"] * 9
    outcome = read_outcome(batch.folder)
    assert outcome is not None
    assert "the disk of its folder fails" in outcome.error
    assert "store away" in outcome.error


def test_page_of_a_shard_that_the_disk_does_not_give_is_no_crash_on_slurm(batch: Batch) -> None:
    batch.said("srun: error: node2: task 1: Bus error (core dumped)")
    for _ in range(5):
        decide_comeback()

    assert batch.asked() == ["scontrol requeue 7"] * 5


def test_page_of_a_shard_that_the_disk_does_not_give_is_no_crash_here() -> None:
    crash = cause_of([], killed=(1, signal.SIGBUS))

    assert crash.away
    assert crash.cause.name == "store away"
    assert not cause_of([], killed=(1, signal.SIGSEGV)).away
