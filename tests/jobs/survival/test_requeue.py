"""Who comes back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from signal import SIGTERM, SIGUSR1, SIGUSR2, Signals
from typing import TypeVar

import pytest

from instruct_core.errors import ConfigError, LateSaveError, SlurmError
from instruct_core.storage.store import Store
from jobs.events import Crashed
from jobs.failures import failure_report, read_failures, read_outcome
from jobs.job_folder import AwayError, Progress, store_may_be_away
from jobs.ledger import read_ledger
from jobs.slurm import JobRecord
from jobs.survival.crash import Crash, cause_of
from jobs.survival.requeue import CrashBudget, allows_fruitless_start, answer_to, judge_crash
from tests.fakes import record
from tests.jobs.survival.test_crash import report

SLURM = "jobs.survival.requeue.show_job"
T = TypeVar("T")


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
        (record(state="COMPLETING", num_restarts=1, has_lost_its_script=True), "requeue"),
        (record(state="COMPLETING", num_restarts=1, has_lost_a_node=True), "requeue"),
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


def in_starts(monkeypatch: pytest.MonkeyPatch, values: Iterable[T]) -> Iterator[T]:
    """Yield values, each in a start of its own."""
    for number, value in enumerate(values):
        monkeypatch.setenv("INSTRUCT_START", f"0000000007-{number:04d}")
        yield value


def test_warnings_that_let_no_step_be_made_come_to_an_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = in_starts(monkeypatch, [0] * 9 + [1] * 11)

    allowed = [allows_fruitless_start(tmp_path, step) for step in steps]

    assert allowed == [True] * 19 + [False]


@pytest.mark.parametrize(
    "text",
    ["", "\0" * 99, '{"committed": null}', '{"in_a_row": "2"}', '{"node_in_a_row": [1]}', "[]"],
)
def test_counts_that_a_full_disk_or_somebody_has_spoilt_are_fresh_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("INSTRUCT_START", "0000000007-0001")
    for name in ("crashes.json", "warnings.json"):
        (tmp_path / name).write_text(text)

    assert CrashBudget(tmp_path).allows_restart(5)
    assert allows_fruitless_start(tmp_path, 5)


def test_budget_counts_crashes_in_a_row_that_committed_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = in_starts(monkeypatch, (0, 0, 5, 5, 7, 7, 7))

    allowed = [CrashBudget(tmp_path).allows_restart(step) for step in steps]

    assert allowed == [True, True, True, True, True, True, False]


def test_start_that_is_judged_again_counts_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INSTRUCT_START", "0000000007-0001")
    store = Store(tmp_path / "runs" / "r")
    progress = Progress(committed=5, ledger=store.url, attempt=0)
    crash = Crash("CUDA error: x", "T", "node1", True)

    judged = [judge_crash(crash, tmp_path, progress) for _ in range(4)]
    warned = [allows_fruitless_start(tmp_path, 5) for _ in range(20)]

    assert judged == [(True, "")] * 4
    assert all(warned)
    assert [entry.event.name for entry in read_ledger(store)] == ["crashed"]


def test_node_that_fails_twice_in_a_row_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = []
    nodes = ("node1", "node2", "node1", "node1", "node3", "", "")
    for step, node in enumerate(in_starts(monkeypatch, nodes)):
        budget = CrashBudget(tmp_path)
        budget.allows_restart(step, node)
        named.append(budget.bad_node)

    assert named == ["", "", "", "node1", "", "", ""]


MISSING = Crash("Shards x are not finished: no manifest.json.", "T\nMissingError: x", "", True)


def test_file_that_no_node_sees_is_no_nodes_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "runs" / "r")
    judged = []
    nodes = ("node1", "node2", "node2", "node2")
    for step, node in enumerate(in_starts(monkeypatch, nodes)):
        progress = Progress(committed=step, ledger=store.url, attempt=step)
        judged.append(judge_crash(MISSING._replace(node=node), tmp_path, progress))

    assert judged == [(True, "")] * 4
    crashes = [e.event.node for e in read_ledger(store) if isinstance(e.event, Crashed)]
    assert crashes == ["node1", "", "", ""]


def test_node_that_alone_does_not_see_a_file_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged = [
        judge_crash(MISSING._replace(node=node), tmp_path, Progress())
        for node in in_starts(monkeypatch, ("node1", "node1"))
    ]

    assert judged == [(True, ""), (True, "node1")]


def test_what_a_person_must_fix_is_not_tried_again(
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


@pytest.mark.parametrize(
    "error", [OSError("no answer in time"), PermissionError("s3://bucket: Forbidden")]
)
def test_store_that_is_away_is_no_crash_and_blames_no_node(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    with pytest.raises(AwayError), failure_report(folder, 0), store_may_be_away():
        raise error
    crash = cause_of(read_failures(folder))

    steps = in_starts(monkeypatch, [5] * 11)
    judged = [judge_crash(crash, folder, Progress(committed=step)) for step in steps]

    # The first comes after progress.
    assert judged == [(True, "")] * 10 + [(False, "")]
    assert not (folder / "crashes.json").exists()


def test_warned_runs_that_cannot_save_are_no_crashes_and_blame_no_node(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three preemptions while a disk is full were three crashes, and the second blamed the node."""
    monkeypatch.setenv("SLURMD_NODENAME", "node7")
    with pytest.raises(LateSaveError), failure_report(folder, 0):
        raise LateSaveError("Step 7 could not be saved before the end: [Errno 28] No space left")
    crash = cause_of(read_failures(folder))

    steps = in_starts(monkeypatch, [5] * 4)
    judged = [judge_crash(crash, folder, Progress(committed=step)) for step in steps]

    assert judged == [(True, "")] * 4
    assert crash.cause.name == "disk full"


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
