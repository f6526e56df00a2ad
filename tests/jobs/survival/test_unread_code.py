"""Starts that ended because the disk failed that the code, the reports and the log lie on."""

from __future__ import annotations

import errno
import importlib
import signal
from pathlib import Path

import pytest

from jobs import patient
from jobs.failures import Failure, failure_report, read_failures, read_outcome
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


@pytest.mark.parametrize(
    ("word", "in_a_row"), [(PYTHON_SAYS[0], 5), ("ModuleNotFoundError: No module named 'x'", 2)]
)
def test_last_word_of_another_rank_stands_in_its_own_log(
    batch: Batch, word: str, in_a_row: int
) -> None:
    own = batch.folder / "log_3_log.out"
    for number in range(5):
        batch.start(number)
        with own.open("a") as log:
            log.write(f"=== start {number:04d}\n{word}\n")
        batch.said("srun: error: node2: task 3: Exited with exit code 1")
        decide_comeback()

    assert batch.asked().count("scontrol requeue 7") == in_a_row


def test_word_of_an_earlier_start_does_not_count(batch: Batch) -> None:
    own = batch.folder / "log_3_log.out"
    own.write_text(f"=== start 0000\n{PYTHON_SAYS[0]}\n")
    for number in range(1, 5):
        batch.start(number)
        batch.said("srun: error: node2: task 3: Exited with exit code 1")
        decide_comeback()

    assert batch.asked().count("scontrol requeue 7") == 2


def test_rank_whose_python_lacks_a_package_is_a_crash(batch: Batch) -> None:
    for number in range(4):
        batch.start(number)
        batch.said("ModuleNotFoundError: No module named 'torch'")
        batch.said("srun: error: node1: task 0: Exited with exit code 1")
        decide_comeback()

    assert batch.asked().count("scontrol requeue 7") == 2


def test_start_of_which_nobody_could_leave_a_word_is_no_crash(batch: Batch) -> None:
    """The log has the script's own first line, and the disk took nothing after it."""
    for number in range(12):
        batch.start(number)
        decide_comeback()

    assert batch.asked() == ["scontrol requeue 7"] * 9
    outcome = read_outcome(batch.folder)
    assert outcome is not None
    assert "the disk of its folder fails" in outcome.error
    assert "store away" in outcome.error


def test_page_of_a_shard_that_the_disk_does_not_give_is_no_crash_on_slurm(batch: Batch) -> None:
    for number in range(5):
        batch.start(number)
        batch.said("srun: error: node2: task 1: Bus error (core dumped)")
        decide_comeback()

    assert batch.asked() == ["scontrol requeue 7"] * 5


def test_page_of_a_shard_that_the_disk_does_not_give_is_no_crash_here() -> None:
    crash = cause_of([], killed=(1, signal.SIGBUS))

    assert crash.away
    assert crash.cause.name == "store away"
    assert not cause_of([], killed=(1, signal.SIGSEGV)).away


def test_log_that_slurm_could_not_open_is_no_crash(batch: Batch) -> None:
    for number in range(5):
        batch.start(number)
        batch.said("srun: error: task 0 launch failed: Slurmd could not connect IO")
        decide_comeback()

    assert batch.asked() == ["scontrol requeue 7"] * 5


def test_rank_that_cannot_be_started_for_another_reason_is_a_crash(batch: Batch) -> None:
    for number in range(4):
        batch.start(number)
        batch.said("srun: error: task 0 launch failed: Slurmd could not execve job")
        decide_comeback()

    assert batch.asked().count("scontrol requeue 7") == 2


def test_peers_of_a_rank_that_was_given_no_page_do_not_make_it_a_crash() -> None:
    """Their node was quicker to tell srun that they have lost it."""
    lost = Failure(0.0, 0, "node1", "Connection closed by peer", "T", retry=True)

    crash = cause_of(
        [lost],
        "srun: error: node1: task 0: Exited with exit code 1\nsrun: Terminating StepId=1.0\n"
        "srun: error: node2: task 1: Bus error (core dumped)\n",
    )

    assert crash.away
    assert crash.error.startswith("rank 1 on node2: Bus error")


# What Python has said on such a disk, in the job's copy of its code and in other packages; what those
# lack, the node may lack, and a person has to fix.
UNREAD = {
    "from instruct_core.errors import nothing": (True, True),
    "import instruct_core.nowhere": (True, True),
    "import os; os.getcwd()": (True, True),
    "open('nowhere')": (True, False),
    "import json; json.nothing": (True, False),
    "from json import nothing": (False, False),
    "import nowhere": (False, False),
    "None + 1": (False, False),
}


@pytest.mark.parametrize("is_ours", [True, False])
@pytest.mark.parametrize("line", UNREAD)
def test_module_of_the_job_that_was_not_read_whole_is_no_crash(
    batch: Batch, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, line: str, is_ours: bool
) -> None:
    code = tmp_path / "code"
    place = code / "jobs" if is_ours else tmp_path / "site"
    place.mkdir(parents=True)
    (place / "begins_here.py").write_text(f"{line}\n")
    monkeypatch.syspath_prepend(str(place))
    monkeypatch.setattr(patient, "__file__", str(code / "jobs" / "patient.py"))
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()

    with pytest.raises(Exception), failure_report(batch.folder, 0):  # noqa: B017, PT011
        importlib.import_module("begins_here")

    assert cause_of(read_failures(batch.folder)).away == UNREAD[line][not is_ours]


def test_file_that_training_lacks_is_a_crash(batch: Batch) -> None:
    with pytest.raises(FileNotFoundError), failure_report(batch.folder, 0):
        Path("nowhere").read_text()

    assert not cause_of(read_failures(batch.folder)).away
