"""Who comes back."""

from __future__ import annotations

from pathlib import Path
from signal import SIGTERM, SIGUSR1, SIGUSR2, Signals

import pytest

from instruct_core.errors import ConfigError, SlurmError
from jobs.job_folder import (
    AwayError,
    Failure,
    Progress,
    failure_report,
    read_failures,
    read_outcome,
    store_may_be_away,
)
from jobs.slurm import JobRecord
from jobs.survival.crash import Crash, cause_of
from jobs.survival.requeue import CrashBudget, allows_fruitless_start, answer_to, judge_crash
from tests.fakes import record

SLURM = "jobs.survival.requeue.show_job"


@pytest.fixture
def on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "local")


@pytest.fixture
def on_slurm(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    return monkeypatch


@pytest.mark.parametrize(
    ("received", "expected"),
    [
        ([SIGUSR2, SIGUSR2], "requeue"),
        ([None, SIGUSR1], "requeue"),
        ([SIGTERM, SIGTERM], "stop"),
        ([SIGUSR2, SIGTERM], "stop"),
    ],
)
def test_persons_stop_is_final_and_a_warning_is_not(
    on_this_machine: None, received: list[Signals | None], expected: str
) -> None:
    assert answer_to(received) == expected


@pytest.mark.parametrize(
    ("job", "expected"),
    [
        (record(state="RUNNING", num_restarts=1), "requeue"),
        (record(state="SUSPENDED", num_restarts=1), "requeue"),
        (record(state="SIGNALING", num_restarts=1), "requeue"),
        (record(state="COMPLETING", num_restarts=2), "requeued"),
        (record(state="PENDING", num_restarts=2), "requeued"),
        (record(state="COMPLETING", num_restarts=1), "stop"),
        (record(state="CANCELLED", num_restarts=1), "stop"),
        (None, "stop"),
    ],
)
def test_slurms_record_tells_who_is_asking(
    on_slurm: pytest.MonkeyPatch, job: JobRecord | None, expected: str
) -> None:
    on_slurm.setattr(SLURM, lambda job_id: job)

    assert answer_to([SIGTERM]) == expected


def test_slurm_that_does_not_answer_leaves_the_decision_to_the_batch_script(
    on_slurm: pytest.MonkeyPatch,
) -> None:
    def away(job_id: str) -> None:
        raise SlurmError("scontrol did not answer")

    on_slurm.setattr(SLURM, away)

    assert answer_to([SIGTERM]) == "unsure"


def test_warnings_that_let_no_step_be_made_come_to_an_end(tmp_path: Path) -> None:
    steps = [0] * 9 + [1] * 11

    allowed = [allows_fruitless_start(tmp_path, step) for step in steps]

    assert allowed == [True] * 19 + [False]


def test_budget_that_a_full_disk_has_cut_is_a_fresh_one(tmp_path: Path) -> None:
    (tmp_path / "crashes.json").write_text("")

    assert CrashBudget(tmp_path).allows_restart(5)


def test_budget_counts_crashes_in_a_row_that_committed_nothing(tmp_path: Path) -> None:
    allowed = [CrashBudget(tmp_path).allows_restart(step) for step in (0, 0, 5, 5, 7, 7, 7)]

    assert allowed == [True, True, True, True, True, True, False]


def test_node_that_fails_twice_in_a_row_is_named(tmp_path: Path) -> None:
    named = []
    for step, node in enumerate(("node1", "node2", "node1", "node1", "node3", "", "")):
        budget = CrashBudget(tmp_path)
        budget.allows_restart(step, node)
        named.append(budget.bad_node)

    assert named == ["", "", "", "node1", "", "", ""]


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


def test_what_a_person_must_mend_is_not_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INSTRUCT_START", "0000")
    cause = cause_of([report(0, "lost rank 1"), report(1, "no such shards", retry=False)])

    again, _ = judge_crash(cause, tmp_path, Progress(committed=100))

    assert not again
    outcome = read_outcome(tmp_path)
    assert outcome is not None
    assert outcome.error == "no such shards"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("INSTRUCT_START", "0000000007-0003")
    return tmp_path


def test_store_that_is_away_is_no_crash_and_blames_no_node(folder: Path) -> None:
    with pytest.raises(AwayError), failure_report(folder, 0), store_may_be_away():
        raise OSError("no answer in time")
    crash = cause_of(read_failures(folder))

    judged = [judge_crash(crash, folder, Progress(committed=5)) for _ in range(11)]

    # The first comes after progress.
    assert judged == [(True, "")] * 10 + [(False, "")]
    assert not (folder / "crashes.json").exists()


def test_setting_that_a_person_must_change_blames_no_node(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURMD_NODENAME", "node7")
    with pytest.raises(ConfigError), failure_report(folder, 0):
        raise ConfigError("--micro-batch-size 4")

    assert cause_of(read_failures(folder)) == Crash(
        "--micro-batch-size 4", read_failures(folder)[0].traceback, "", False
    )


def test_ledger_whose_store_is_away_does_not_keep_a_job_from_coming_back(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*arguments: object) -> None:
        raise OSError("no answer in time")

    monkeypatch.setattr("jobs.survival.requeue.note_crash", away)

    progress = Progress(committed=5, attempt=0, ledger="memory://runs/r")
    assert judge_crash(Crash("x", "", "", True), folder, progress) == (True, "")


def test_last_word_that_cannot_be_written_is_at_least_logged(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "failed.json").mkdir()

    judge_crash(Crash("no such shards", "", "", False), folder, Progress())

    assert "no such shards" in caplog.text


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
