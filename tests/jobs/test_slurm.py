"""What Slurm's clients say, and what becomes of it."""

from __future__ import annotations

import os
import re
from datetime import datetime
from pathlib import Path

import pytest

from instruct_core.errors import SlurmError
from jobs import slurm
from jobs.slurm import (
    RefusedError,
    clean_environment,
    controller_seconds,
    records_in,
    run_client,
    show_jobs,
    tasks_of,
)

LINE = (
    "JobId=21 ArrayJobId=20 ArrayTaskId=3-5,9%2 JobName=shards-x UserId=me(1) Priority=4 Requeue=1 "
    "Restarts=2 ExitCode=0:15 JobState=PENDING Reason=Resources Dependency=(null) "
    "StartTime=2026-11-23T08:00:00 EndTime=Unknown PreemptTime=None NodeList=(null) "
    "ExcNodeList=node[2-3] Comment=JobState=FAILED"
)


def fake(monkeypatch: pytest.MonkeyPatch, folder: Path, name: str, script: str) -> None:
    """Put a client on PATH that does what a script says."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def test_record_of_waiting_array_tasks_is_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake(monkeypatch, tmp_path, "scontrol", f"echo '{LINE}'")

    (job,) = show_jobs("20")

    assert (job.job_id, job.state, job.reason) == ("20_[3-5,9]", "PENDING", "Resources")
    assert (job.num_restarts, job.may_requeue, job.excluded_nodes) == (2, True, "node[2-3]")
    assert job.is_active
    assert tasks_of(job.job_id) == [3, 4, 5, 9]
    assert tasks_of("20") == []


# Every state and flag of slurm.schedmd.com/job_state_codes.html: does the job still do something, and do
# its processes live?
STATES = {
    (True, True): "RUNNING SUSPENDED STOPPED SIGNALING RESIZING",
    (True, False): (
        "PENDING COMPLETING CONFIGURING STAGE_OUT REQUEUED REQUEUE_FED REQUEUE_HOLD SPECIAL_EXIT "
        "RESV_DEL_HOLD UPDATE_DB EXPEDITING POWER_UP_NODE LAUNCH_FAILED RECONFIG_FAIL REVOKED "
        "SOMETHING_OF_TOMORROW"
    ),
    (False, False): (
        "BOOT_FAIL CANCELLED COMPLETED DEADLINE FAILED NODE_FAIL OUT_OF_MEMORY PREEMPTED TIMEOUT"
    ),
}


@pytest.mark.parametrize(
    ("state", "alive"), [(state, alive) for alive in STATES for state in STATES[alive].split()]
)
def test_every_state_of_slurm_is_known_as_alive_or_ended(
    state: str, alive: tuple[bool, bool]
) -> None:
    (record,) = records_in([LINE.replace("JobState=PENDING", f"JobState={state}", 1)])

    assert (record.is_active, record.is_running) == alive


@pytest.mark.parametrize(
    ("reason", "exit_code", "lost"),
    [
        ("JobLaunchFailure", "0:9", True),
        ("JobLaunchFailure", "0:1", True),
        ("RaisedSignal:9(Killed)", "0:9", True),
        ("RaisedSignal:1(Hangup)", "0:1", True),
        ("JobLaunchFailure", "0:0", False),  # nothing has begun
        ("NonZeroExitCode", "1:0", False),
        ("None", "0:9", False),  # scancel --full --signal=KILL
        ("None", "0:15", False),
    ],
)
def test_killed_script_is_told_from_a_cancelled_job(
    reason: str, exit_code: str, lost: bool
) -> None:
    line = re.sub(r"(Reason|ExitCode)=\S+ ?", "", LINE)

    (record,) = records_in([f"{line} Reason={reason} ExitCode={exit_code}"])

    assert record.has_lost_its_script == lost


def test_job_that_slurm_has_forgotten_has_no_record(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    said = "slurm_load_jobs error: Invalid job id specified"
    fake(monkeypatch, tmp_path, "scontrol", f"echo {said} >&2; exit 1")

    assert show_jobs("20") == []


def test_client_that_refuses_or_does_not_answer_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake(monkeypatch, tmp_path, "scontrol", "echo 'Unable to contact' slurm controller >&2; exit 1")
    with pytest.raises(SlurmError, match="Unable to contact slurm controller"):
        show_jobs("20")

    fake(monkeypatch, tmp_path, "scontrol", "exec sleep 60")
    monkeypatch.setattr(slurm, "CLIENT_TIMEOUT_SECONDS", 0.1)
    with pytest.raises(SlurmError, match="did not answer"):
        show_jobs("20")

    with pytest.raises(SlurmError, match="is not on this machine's PATH"):
        run_client(["no-such-client"])


def test_text_in_another_encoding_is_no_obstacle(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake(monkeypatch, tmp_path, "scontrol", f"printf '%b' '{LINE} Reason=d\\351fectueux\\n'")

    assert show_jobs("20")[0].state == "PENDING"


def test_answer_that_cannot_be_read_is_asked_for_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake(monkeypatch, tmp_path, "scontrol", "echo JobId=20 Restarts=x")

    with pytest.raises(SlurmError, match="cannot be read"):
        show_jobs("20")


@pytest.mark.parametrize(
    ("said", "lasts"),
    [
        ("Access/permission denied", True),
        ("Requested operation is presently disabled", True),
        ("Unable to contact slurm controller (connect failure)", False),
        ("Job can not be altered now, try again later", False),
    ],
)
def test_refusal_that_lasts_is_told_from_one_that_may_pass(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, said: str, lasts: bool
) -> None:
    fake(monkeypatch, tmp_path, "scontrol", f"echo '{said}' >&2; exit 1")

    with pytest.raises(SlurmError) as caught:
        run_client(["scontrol", "requeue", "7"])

    assert isinstance(caught.value, RefusedError) == lasts


def test_clock_of_the_controller_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    said = "echo 'Configuration data as of 2026-11-28T06:07:14'; echo 'AuthType = auth/munge'"
    fake(monkeypatch, tmp_path, "scontrol", said)
    assert controller_seconds() == datetime(2026, 11, 28, 6, 7, 14).timestamp()

    fake(monkeypatch, tmp_path, "scontrol", "echo 'AuthType = auth/munge'")
    with pytest.raises(SlurmError, match="does not tell"):
        controller_seconds()


def test_environment_of_an_enclosing_job_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    places = {
        "SLURM_CONF",
        "SLURM_JWT",
        "INSTRUCT_CACHE",
    }  # as a person has set them, for every job
    others = {"SLURM_MEM_PER_CPU", "SUBMITIT_EXECUTOR", "SBATCH_TIMELIMIT", "INSTRUCT_START"}
    for name in places | others:
        monkeypatch.setenv(name, "x")

    kept = clean_environment()

    assert places <= kept.keys()
    assert not others & kept.keys()
