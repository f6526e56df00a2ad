"""A job that Slurm does not requeue, and what it says there."""

from __future__ import annotations

import logging

import pytest

from instruct_core.errors import SlurmError
from jobs.job_folder import Progress, write_progress
from jobs.survival.comeback import MAX_REFUSALS, decide_comeback
from tests.jobs.survival.conftest import Batch


@pytest.mark.parametrize(
    "said",
    ["Access/permission denied", "Requested operation is presently disabled for job 7"],
)
def test_refusal_that_will_not_change_is_answered_by_a_follow_up_at_once(
    batch: Batch, said: str
) -> None:
    batch.slurm(more=f"case $* in requeue*) echo '{said}' >&2; exit 1;; esac")

    decide_comeback()

    assert [line.split()[0] for line in batch.asked()] == ["scontrol", "sbatch"]


def test_job_whose_node_has_no_scontrol_is_followed_by_another(batch: Batch) -> None:
    batch.take_away("scontrol")

    decide_comeback()

    assert [line.split()[0] for line in batch.asked()] == ["sbatch"]


def test_cancelled_job_whose_node_has_no_scontrol_stays_cancelled(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch.take_away("scontrol")
    monkeypatch.setenv("INSTRUCT_TOLD_TO_END", "1")

    decide_comeback()

    assert batch.asked() == []


def test_job_that_slurm_neither_requeues_nor_queues_gives_its_nodes_back(batch: Batch) -> None:
    batch.slurm(more="case $* in requeue*) echo Access/permission denied >&2; exit 1;; esac")
    batch.take_away("sbatch")

    with pytest.raises(SlurmError, match="sbatch"):
        decide_comeback()

    assert len(batch.asked()) == MAX_REFUSALS


@pytest.mark.parametrize(("requeue", "followed"), [(0, ["sbatch"]), (1, [])])
def test_job_that_loses_a_node_is_followed_where_slurm_does_not_requeue_it(
    batch: Batch, monkeypatch: pytest.MonkeyPatch, requeue: int, followed: list[str]
) -> None:
    monkeypatch.setattr(batch, "slurm_facts", "Reason=NodeDown")
    monkeypatch.setenv("INSTRUCT_TOLD_TO_END", "1")
    monkeypatch.setenv("INSTRUCT_INSIDE", "0")
    batch.slurm(state="COMPLETING", requeue=requeue)

    assert decide_comeback() == 0

    assert [line.split()[0] for line in batch.asked()] == followed


def test_saved_job_that_may_not_be_requeued_is_followed_by_another(batch: Batch) -> None:
    write_progress(batch.folder, Progress(state="requeued", committed=5))
    batch.slurm(requeue=0)

    decide_comeback()

    script = batch.folder / "job.sh"
    assert batch.asked() == [f"sbatch --parsable --dependency=afterany:7 {script}"]
    assert (batch.folder / "job_ids").read_text() == "8\n"


def test_array_task_that_may_not_be_requeued_is_followed_alone(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "6")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    batch.slurm(requeue=0)

    decide_comeback()

    assert "--dependency=afterany:6_3 --array=3" in batch.asked()[0]


def test_follow_up_whose_id_cannot_be_written_down_is_not_queued_twice(batch: Batch) -> None:
    (batch.folder / "job_ids").mkdir()
    batch.slurm(requeue=0)

    decide_comeback()

    assert len(batch.asked()) == 1


@pytest.mark.parametrize("task", ["", "3"])
def test_follow_up_that_was_queued_though_sbatch_was_not_answered_is_the_only_one(
    batch: Batch, monkeypatch: pytest.MonkeyPatch, task: str
) -> None:
    own = "7"
    if task:
        monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "6")
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", task)
        own = f"6_{task}"
    waiting = f"Command={batch.folder}/job.sh Dependency=afterany:{own}"
    others = [f"JobId=20 {waiting}1(unfulfilled)", f"JobId=21 {waiting}_4(unfulfilled)"]
    batch.slurm(requeue=0)
    clients = batch.folder / "bin"
    scontrol = (clients / "scontrol").read_text()
    lines = "\n".join([*others, f"JobId=8 {waiting}(unfulfilled)"])
    (clients / "scontrol").write_text(
        f"#!/bin/sh\n[ \"$*\" = '-o show job' ] && {{ echo '{lines}'; exit; }}\n{scontrol}"
    )
    (clients / "sbatch").write_text(
        f"#!/bin/sh\necho sbatch >> {batch.folder}/asked\necho 'Socket timed out' >&2; exit 1\n"
    )

    decide_comeback()

    assert batch.asked() == ["sbatch"]
    assert (batch.folder / "job_ids").read_text() == "8\n"
    assert not (batch.folder / "submitting").exists()


LINES = "JobId=6 ArrayJobId=6 ArrayTaskId=3 JobState=RUNNING\nJobId=8 JobState=PENDING\n"


@pytest.mark.parametrize(
    ("waits", "then"),
    [
        ("afterok:6_*(unfulfilled)", "afterok:6:8"),
        ("afterok:5(unfulfilled),afterok:6_*(unfulfilled)", "afterok:5:6:8"),
        ("afterok:6_*(unfulfilled),afterok:8(unfulfilled)", ""),  # another task was quicker
        ("afterok:66(unfulfilled)", ""),
        ("(null)", ""),
    ],
)
def test_job_that_waits_for_an_array_waits_for_the_follow_up_of_its_task_too(
    batch: Batch, monkeypatch: pytest.MonkeyPatch, waits: str, then: str
) -> None:
    chain(batch, monkeypatch, f"JobId=9 JobState=PENDING Dependency={waits}")

    assert [line for line in batch.asked() if "update" in line] == (
        [f"scontrol update JobId=9 Dependency={then}"] if then else []
    )
    assert (batch.folder / "followed-0001").exists()


@pytest.mark.parametrize("waits", ["afterok:6_3(failed)?afterok:4", "afterany:6", "aftercorr:6_*"])
def test_task_whose_follow_up_nobody_can_wait_for_ends_as_failed(
    batch: Batch, monkeypatch: pytest.MonkeyPatch, waits: str
) -> None:
    chain(batch, monkeypatch, f"JobId=9 JobState=PENDING Dependency={waits}")

    assert not [line for line in batch.asked() if "update" in line]
    assert not (batch.folder / "followed-0001").exists()


def test_task_whose_dependents_slurm_will_not_change_ends_as_failed(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain(
        batch, monkeypatch, "JobId=9 JobState=PENDING Dependency=afterok:6_*",
        "case $* in update*) echo 'Access/permission denied' >&2; exit 1;; esac",
    )  # fmt: skip

    assert not (batch.folder / "followed-0001").exists()


def chain(batch: Batch, monkeypatch: pytest.MonkeyPatch, waiting: str, more: str = "") -> None:
    """Have task 3 of array 6, which may not be requeued, be followed by job 8 while a job waits."""
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "6")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    (batch.folder / "job_ids").write_text("6\n")
    (batch.folder / "all").write_text(f"{LINES}{waiting}\n")
    all_jobs = f"[ $# = 4 ] || [ $1 = update ] || {{ cat {batch.folder}/all; exit; }}"
    batch.slurm(requeue=0, more=f"{more}\n{all_jobs}")
    decide_comeback()


def test_why_slurm_has_ended_a_job_stands_in_its_log(
    batch: Batch, caplog: pytest.LogCaptureFixture
) -> None:
    """What slurmstepd says of the script itself goes nowhere: Slurm opens no file of the job."""
    caplog.set_level(logging.INFO)
    batch.slurm_facts = "Reason=TimeLimit"
    batch.slurm(state="COMPLETING")

    decide_comeback()

    assert "Slurm has decided already: COMPLETING (TimeLimit)" in caplog.messages
