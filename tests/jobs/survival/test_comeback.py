"""What the batch script does when its ranks ended otherwise than well; Slurm is a shell script here."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from jobs.failures import read_outcome, write_failure
from jobs.job_folder import Progress, read_progress, write_progress
from jobs.survival import comeback as module
from jobs.survival.comeback import decide_comeback
from jobs.survival.requeue import MAX_FRUITLESS_STARTS
from tests.jobs.survival.conftest import Batch


def test_crashed_job_is_requeued(batch: Batch) -> None:
    decide_comeback()

    assert batch.asked() == ["scontrol requeue 7"]


@pytest.mark.parametrize("state", ["COMPLETING", "CANCELLED", "PENDING"])
def test_job_that_slurm_has_decided_about_is_left_alone(batch: Batch, state: str) -> None:
    write_progress(batch.folder, Progress(state="requeued", committed=5))
    batch.slurm(state=state)

    decide_comeback()

    assert batch.asked() == []


def test_script_on_a_lost_node_does_not_touch_the_job_that_runs_elsewhere(batch: Batch) -> None:
    write_failure(batch.folder, 0, "FencedError: attempt 1 has taken over", "", retry=False)
    batch.slurm(restarts=1)

    decide_comeback()

    assert batch.asked() == []
    assert read_outcome(batch.folder) is None


@pytest.mark.parametrize("state", ["finished", "stopped"])
def test_job_that_ended_well_is_left_alone(batch: Batch, state: str) -> None:
    write_progress(batch.folder, Progress(state=state, committed=5))

    decide_comeback()

    assert batch.asked() == []


def test_what_an_earlier_start_said_does_not_count_but_what_it_has_saved(batch: Batch) -> None:
    (batch.folder / "crashes.json").write_text('{"committed": 4, "in_a_row": 2}')
    write_progress(batch.folder, Progress(state="finished", committed=5))
    batch.start(2)
    write_failure(batch.folder, 1, "ZeroDivisionError: x", "", retry=True)

    decide_comeback()

    assert batch.asked() == ["scontrol requeue 7"]


def test_slurm_that_does_not_answer_is_asked_again(batch: Batch) -> None:
    batch.slurm(more="[ $(wc -l < $(dirname $0)/../asked) -gt 3 ] || { echo away >&2; exit 1; }")

    decide_comeback()

    assert batch.asked() == ["scontrol requeue 7"]


def test_job_that_is_cancelled_while_slurm_is_away_stays_cancelled(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch.slurm(more="case $* in requeue*) echo away >&2; exit 1;; esac")
    monkeypatch.setattr(module, "sleep", lambda seconds: batch.slurm(state="COMPLETING"))

    decide_comeback()

    assert batch.asked() == ["scontrol requeue 7"]  # the one that failed


@pytest.mark.parametrize("death", ["User defined signal 2", "Terminated"])
def test_rank_that_died_of_a_warning_before_it_listened_is_no_crash(
    batch: Batch, death: str
) -> None:
    batch.said(f"srun: error: node1: task 0: {death}")
    for _ in range(5):
        decide_comeback()

    assert batch.asked() == ["scontrol requeue 7"] * 5


def test_warning_to_srun_which_kills_the_ranks_is_no_crash(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INSTRUCT_TOLD_TO_END", "1")
    for number in range(5):
        batch.start(number)
        batch.said("srun: error: node1: task 0: Killed")
        decide_comeback()

    assert batch.asked() == ["scontrol requeue 7"] * 5
    assert not (batch.folder / "crashes.json").exists()


def test_warnings_before_anything_was_done_come_to_an_end_with_advice(batch: Batch) -> None:
    for number in range(10):
        batch.start(number)
        batch.said("srun: error: node1: task 0: User defined signal 2")
        decide_comeback()

    assert batch.asked() == ["scontrol requeue 7"] * 9
    outcome = read_outcome(batch.folder)
    assert outcome is not None
    assert "Raise --time" in outcome.error


def test_rank_that_srun_ended_was_not_warned(batch: Batch) -> None:
    for number in range(3):
        batch.start(number)
        batch.said("srun: error: node1: task 0: Exited with exit code 1")
        batch.said("srun: launch/slurm: _step_signal: Terminating StepId=7.0")
        batch.said("srun: error: node2: task 3: Terminated")
        decide_comeback()

    assert batch.asked().count("scontrol requeue 7") == 2
    assert read_outcome(batch.folder) is not None


def test_warning_of_an_earlier_start_does_not_count_where_the_log_is_full(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch.said("srun: error: node1: task 0: User defined signal 2")
    for number in range(2, 12):
        monkeypatch.setenv("INSTRUCT_START", f"{number:04d}")
        decide_comeback()

    outcome = read_outcome(batch.folder)
    assert outcome is not None
    assert "the disk of its folder fails" in outcome.error


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])
@pytest.mark.parametrize("what", ["progress-*.json", "failure-0001-*.json", "log"])
def test_what_cannot_be_read_is_unknown_and_no_end(
    batch: Batch, monkeypatch: pytest.MonkeyPatch, what: str, number: int
) -> None:
    write_progress(batch.folder, Progress(state="running", committed=5))
    write_failure(batch.folder, 1, "ZeroDivisionError: x", "Traceback ...", retry=True)
    real = Path.read_text

    def broken(path: Path, *args: Any, **options: Any) -> str:
        if path.match(what):
            raise OSError(number, os.strerror(number))
        return real(path, *args, **options)

    monkeypatch.setattr(Path, "read_text", broken)

    decide_comeback()

    assert batch.asked() == ["scontrol requeue 7"]


def test_disk_that_answers_the_second_time_is_believed(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_progress(batch.folder, Progress(state="finished", committed=5))
    answers = iter([OSError(errno.ESTALE, "stale"), None])

    def once(folder: Path) -> Progress:
        if problem := next(answers):
            raise problem
        return read_progress(folder)

    monkeypatch.setattr(module, "read_progress", once)

    decide_comeback()

    assert batch.asked() == []


def test_empty_failure_file_is_no_end(batch: Batch) -> None:
    (batch.folder / "failure-0001-0.json").write_text("")

    decide_comeback()

    assert batch.asked() == ["scontrol requeue 7"]


def test_full_disk_is_no_end_for_a_job_that_has_been_restarted_often(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(0, 26, 5):
        monkeypatch.setenv("INSTRUCT_START", f"0000000007-{number:04d}")
        write_progress(batch.folder, Progress(state="running", committed=number))
    monkeypatch.setenv("SLURM_RESTART_COUNT", "25")
    batch.slurm(restarts=25)
    monkeypatch.setattr("jobs.survival.requeue.replace_json", full)

    decide_comeback()

    assert batch.asked() == ["scontrol requeue 7"]


def test_job_that_crashes_on_a_full_disk_without_progress_comes_to_an_end(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INSTRUCT_START", "0000000007-0003")
    write_progress(batch.folder, Progress(state="running", committed=4))
    monkeypatch.setenv("INSTRUCT_START", "0000000007-0040")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "40")
    batch.slurm(restarts=40)
    monkeypatch.setattr("jobs.survival.requeue.replace_json", full)

    decide_comeback()

    assert batch.asked() == []
    assert read_outcome(batch.folder) is not None


def full(*arguments: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_crash_that_cannot_be_counted_is_no_end(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.survival.requeue.replace_json", full)

    decide_comeback()

    assert batch.asked() == ["scontrol requeue 7"]


def test_third_crash_without_progress_is_the_last(batch: Batch) -> None:
    (batch.folder / "crashes.json").write_text(
        json.dumps({"committed": 5, "in_a_row": 2, "node": "", "node_in_a_row": 2})
    )
    write_progress(batch.folder, Progress(state="running", committed=5))
    write_failure(batch.folder, 1, "ZeroDivisionError: x", "Traceback ...", retry=True)

    decide_comeback()

    assert batch.asked() == []
    outcome = read_outcome(batch.folder)
    assert outcome
    assert outcome.error.startswith("ZeroDivisionError: x (code; fix it")


NO_STEP = (
    "srun: error: Unable to create step for job 7: Invalid generic resource (gres) specification"
)


def test_allocation_in_which_slurm_makes_no_step_is_no_crash_and_is_given_back(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INSTRUCT_INSIDE", "0")  # where a crash would start anew on the same nodes
    (batch.folder / "crashes.json").write_text(
        json.dumps({"committed": 5, "in_a_row": 2, "node": "", "node_in_a_row": 2})
    )
    batch.said(NO_STEP)

    inside = decide_comeback()

    assert (inside, batch.asked()) == (False, ["scontrol requeue 7"])
    assert json.loads((batch.folder / "crashes.json").read_text())["in_a_row"] == 2


def test_step_that_slurm_never_makes_comes_to_an_end_and_says_why(batch: Batch) -> None:
    for number in range(MAX_FRUITLESS_STARTS):
        batch.start(number)
        batch.said(NO_STEP)
        decide_comeback()

    assert len(batch.asked()) == MAX_FRUITLESS_STARTS - 1
    outcome = read_outcome(batch.folder)
    assert outcome
    assert "Slurm made no step, Invalid generic resource" in outcome.error
