"""What the batch script does when its ranks ended otherwise than well; Slurm is a shell script here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jobs.job_folder import Progress, read_outcome, write_failure, write_progress
from jobs.survival import comeback as module
from jobs.survival.comeback import decide_comeback
from tests.jobs.test_slurm import fake

JOB = "JobId=7 JobState={state} Restarts={restarts} Requeue={requeue} Partition=low ExcNodeList=(null)"


class Batch:
    """A batch script's world: a job folder, and clients that note what they were asked."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self._monkeypatch = folder, monkeypatch
        self._clients = folder / "bin"
        self._clients.mkdir()
        (folder / "log").write_text("=== start 0001 on node[1-2]\n")
        for name, value in {
            "SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "2", "INSTRUCT_JOB": str(folder),
            "INSTRUCT_START": "0001", "INSTRUCT_LOG": str(folder / "log"),
            "INSTRUCT_SCRIPT": str(folder / "job.sh"),
        }.items():  # fmt: skip
            monkeypatch.setenv(name, value)
        for name in ("SLURM_ARRAY_TASK_ID", "SLURM_RESTART_COUNT"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(module, "RETRY_SECONDS", 0.0)
        self.slurm()

    def slurm(
        self, state: str = "RUNNING", restarts: int = 0, requeue: int = 1, more: str = ""
    ) -> None:
        """Say what Slurm answers."""
        line = JOB.format(state=state, restarts=restarts, requeue=requeue)
        asked = f'echo "$(basename $0) $*" >> {self.folder}/asked\n'
        show = f"case $* in *'show job'*) echo '{line}';; *hostnames*) echo $3 | tr , '\\n';; esac"
        fake(self._monkeypatch, self._clients, "scontrol", f"{asked}{more}\n{show}")
        fake(self._monkeypatch, self._clients, "sbatch", f"{asked}echo 8")
        nodes = 'for n in 1 2 3; do case $* in *%G*) echo "node$n|gpu:4|x";; *) echo node$n;; esac; done'
        fake(self._monkeypatch, self._clients, "sinfo", nodes)

    def asked(self) -> list[str]:
        """Return what Slurm was asked to do, without the questions."""
        path = self.folder / "asked"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line for line in lines if " show " not in line]


@pytest.fixture
def batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Batch:
    return Batch(tmp_path, monkeypatch)


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


def test_what_an_earlier_start_said_does_not_count(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_progress(batch.folder, Progress(state="finished", committed=5))
    monkeypatch.setenv("INSTRUCT_START", "0002")

    decide_comeback()

    assert batch.asked() == ["scontrol requeue 7"]


def test_saved_job_that_may_not_be_requeued_is_followed_by_another(batch: Batch) -> None:
    write_progress(batch.folder, Progress(state="requeued", committed=5))
    batch.slurm(requeue=0)

    decide_comeback()

    script = batch.folder / "job.sh"
    assert batch.asked() == [f"sbatch --parsable --dependency=singleton {script}"]
    assert (batch.folder / "job_ids").read_text() == "8\n"


def test_array_task_that_may_not_be_requeued_is_followed_alone(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "6")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    batch.slurm(requeue=0)

    decide_comeback()

    assert "--array=3 --dependency=afterany:6_3" in batch.asked()[0]


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


def test_rank_that_died_of_a_warning_before_it_listened_is_no_crash(batch: Batch) -> None:
    with (batch.folder / "log").open("a") as log:
        log.write("srun: error: node1: task 0: User defined signal 2\n")
    for _ in range(5):
        decide_comeback()

    assert batch.asked() == ["scontrol requeue 7"] * 5


def test_crash_that_cannot_be_counted_is_no_end(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise OSError("No space left on device")

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
    assert outcome is not None
    assert outcome.error == "ZeroDivisionError: x"


def test_node_that_failed_twice_in_a_row_is_excluded(batch: Batch) -> None:
    for step in (5, 6):
        (batch.folder / "asked").unlink(missing_ok=True)
        write_progress(batch.folder, Progress(state="running", committed=step))
        with (batch.folder / "log").open("a") as log:
            log.write("srun: error: node2: task 3: Killed\n")
        decide_comeback()

    assert batch.asked() == ["scontrol requeue 7", "scontrol update JobId=7 ExcNodeList=node2"]
