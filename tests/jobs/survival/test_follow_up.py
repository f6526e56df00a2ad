"""A job that Slurm does not requeue, and what it says there."""

from __future__ import annotations

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
