"""How runs stand, told from what they have left on disk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from instruct_core.errors import CorruptFileError, MissingError
from instruct_core.events import Saved
from instruct_core.storage.store import Store
from jobs.control import ask
from jobs.events import Resumed, ShortLead
from jobs.failures import write_failure
from jobs.job_folder import START, Progress, write_progress
from jobs.ledger import Ledger
from jobs.slurm import JobRecord
from launch.cluster.lock import RunLock
from launch.cluster.slurm import SlurmJob
from launch.console.display import age, zone
from launch.flags.status import Status
from launch.runs.overview import show_status
from launch.runs.run import Run
from launch.runs.status import RunStatus
from tests.conftest import launch, write_rows
from tests.launch.played_slurm import PlayedSlurm
from tests.launch.runs.test_run import save

BUSY = "waits for free nodes: fewer --nodes, or a shorter --time, may start sooner"


def status_of(project: Path) -> RunStatus:
    return RunStatus.of(Run.find("r", str(project / "checkpoints")))


def leave(project: Path, name: str, **document: object) -> None:
    (project / "runs" / "r" / "job" / "0000" / name).write_text(json.dumps(document))


def test_run_that_has_said_nothing_is_not_started(project: Path) -> None:
    status = status_of(project)

    assert (status.state(), status.step(), status.attempt(), status.last_save()) == (
        "not started", "0 of 10", "", "",
    )  # fmt: skip
    assert status.attempts() == []


@pytest.mark.parametrize(("step", "state"), [(5, "stopped"), (10, "finished")])
def test_run_whose_jobs_have_left_nothing_is_told_by_its_checkpoints(
    project: Path, step: int, state: str
) -> None:
    save(Run.find("r", str(project / "checkpoints")), step)

    status = status_of(project)

    assert (status.state(), status.step(), status.last_save()) == (
        state, f"{step} of 10", f"step {step}",
    )  # fmt: skip


def test_newest_start_counts(project: Path) -> None:
    leave(project, "progress-0000000007-0000.json", state="running", global_step=4)
    leave(project, "progress-0000000007-0001.json", state="stopped", global_step=6)

    assert status_of(project).state() == "stopped"
    assert status_of(project).step() == "6 of 10"


@pytest.mark.parametrize(
    ("said", "state"),
    [
        ("running", "training here"),
        ("stopped", "stopped, ending here"),
        ("finished", "finished, ending here"),
    ],
)
def test_run_whose_processes_outlive_its_last_word_is_ending(
    project: Path, said: str, state: str
) -> None:
    leave(project, "progress-0000.json", state=said, global_step=4)
    lock = RunLock(project / "checkpoints" / "r" / "lock")
    assert lock.acquire()

    told = status_of(project).state()
    lock.close()

    assert told == state


def test_run_that_failed_says_why(project: Path) -> None:
    leave(project, "progress-0000.json", state="running", global_step=4)
    leave(project, "failed.json", start="0000", error="disk on fire", traceback="", retry=True)

    assert status_of(project).state() == "failed"
    assert "disk on fire" in status_of(project).note()


def test_lead_that_is_too_short_is_said(project: Path) -> None:
    ledger = Ledger(Store(project / "runs" / "r"), attempt=0)
    ledger.note(ShortLead(lead_seconds=20.0, needed_seconds=86.0))

    told = "warning comes 20 s before the end, and a step and a save need 86 s"
    assert told in status_of(project).note()


def test_run_of_a_moved_project_is_found_where_it_lies_now(project: Path) -> None:
    leave(project, "progress-0000.json", state="finished", global_step=10)
    moved = project.rename(project.with_name("elsewhere"))

    assert status_of(moved).state() == "finished"


@pytest.mark.parametrize(
    "text",
    ["{", "null", "7", "[]", '{"folder": 3, "ledger": "l"}', '{"folder": "f"}', "[" * 100_000],
)
def test_missing_and_damaged_runs_are_named(project: Path, text: str) -> None:
    with pytest.raises(MissingError, match="Run x is not there"):
        Run.find("x", str(project / "checkpoints"))

    (project / "checkpoints" / "r" / "slurm.json").write_text(text)
    with pytest.raises(CorruptFileError, match=r"slurm\.json is damaged"):
        status_of(project)


def queued(project: Path, slurm: PlayedSlurm, **facts: str) -> RunStatus:
    """Return the status of the run after it was queued as job 1, of which Slurm says so much."""
    folder = project / "runs" / "r" / "job" / "0000"
    (folder / "job_ids").write_text("1\n")
    SlurmJob(folder, str(project / "runs" / "r")).write_note(status_of(project).run.slurm_note)
    (project / "slurm/jobs/1").write_text("JobId=1 JobState=PENDING Reason=None Restarts=0\n")
    slurm.change("1", **facts)
    return status_of(project)


@pytest.mark.parametrize(
    ("reason", "start", "note"),
    [
        (
            "Resources",
            "2001-01-01T08:00:00",
            f"expected start 2001-01-01T08:00:00 {zone()}; {BUSY}",
        ),
        ("Resources", "2100-01-01T08:00:00", BUSY),  # what Slurm says where it does not know
        ("Resources", "Unknown", BUSY),
        ("None", "Unknown", ""),
        ("SomethingNewer", "Unknown", ""),
        (
            "QOSMaxJobsPerUserLimit",
            "Unknown",
            "a limit of its QOS is reached: waits for other jobs under it to end, or another --qos",
        ),
        ("JobHeldUser", "Unknown", "it is held: scontrol release 1"),
        ("Dependency", "2001-01-01T08:00:00", "waits for another job"),
        (
            "DependencyNeverSatisfied",
            "2001-01-01T08:00:00",
            "can never start: what it waits for has failed. Fix that, and give the same command again, "
            "which replaces the job",
        ),
    ],
)
def test_note_says_why_a_run_waits_and_no_start_that_nobody_knows(
    project: Path, slurm: PlayedSlurm, reason: str, start: str, note: str
) -> None:
    assert queued(project, slurm, Reason=reason, StartTime=start).note() == note


@pytest.mark.parametrize("state", ["RUNNING", "PENDING"])
def test_job_of_which_a_part_runs_is_none_that_never_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    times = ("Unknown", "Unknown", "", "")
    waits = JobRecord("7", "PENDING", "DependencyNeverSatisfied", 0, True, *times)
    parts = [waits, waits._replace(job_id="8", state=state, reason="None")]
    monkeypatch.setattr(SlurmJob, "records", lambda job: parts)

    assert not SlurmJob(tmp_path).never_starts()


def test_run_that_has_said_its_last_word_needs_no_slurm(project: Path, slurm: PlayedSlurm) -> None:
    status = queued(project, slurm)
    leave(project, "progress-0000000001-0000.json", state="finished", global_step=10)
    slurm.is_away()

    assert status.state() == "finished"


def test_attempt_that_was_lost_is_told_with_the_step_it_reached(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = Store(project / "runs" / "r")
    for attempt, step in ((0, 180), (1, 190)):
        ledger = Ledger(runs, attempt)
        ledger.note(Resumed(step=step - 180))
        ledger.note(Saved(step=step))
    leave(project, "progress-0000000007-0000.json", attempt=0, global_step=198)
    leave(project, "progress-0000000007-0001.json", attempt=1, global_step=190)

    show_status(Status("r", checkpoints=str(project / "checkpoints")))

    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    told = {row[0]: row[3:5] + row[-4:] for row in rows if row and row[0] in ("0", "1")}
    assert told["0"] == ["0", "198", "lost", "without", "a", "word"]
    assert told["1"] == ["10", "190", "lost", "without", "a", "word"]


@pytest.mark.parametrize(("max_steps", "noted"), [(4, False), (10, True)])
def test_pause_that_came_too_late_is_no_note_of_a_run_that_has_made_all_its_steps(
    project: Path, max_steps: int, noted: bool
) -> None:
    store = Store(project / "checkpoints" / "r")
    document = json.loads(store.read("run.json"))
    document["config"]["max_steps"] = max_steps
    store.replace("run.json", json.dumps(document).encode())
    leave(project, "progress-0000.json", state="finished", global_step=4)

    ask(store, "pause", "anna@login1")

    status = status_of(project)
    assert status.state() == "finished"
    assert ("pause asked for by anna@login1" in status.note()) == noted  # an extended run pauses


@pytest.mark.parametrize(("steps", "noted"), [(10, False), (4, True)])
def test_finished_run_that_was_extended_says_how_it_goes_on(
    project: Path, steps: int, noted: bool
) -> None:
    leave(project, "progress-0000.json", state="finished", global_step=steps)

    status = status_of(project)

    assert (status.state(), status.step()) == ("finished", f"{steps} of 10")
    assert ("it ends at step 10 now. Have it go on: " in status.note()) == noted
    assert ("finetune" in status.note()) == noted


def test_array_whose_tasks_fail_and_start_again_says_why(
    tmp_path: Path, slurm: PlayedSlurm, desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_rows(desk / "rows.jsonl", 600)
    words = ["--source=rows.jsonl", "--out=shards/s", "--num-tasks=16"]
    made = launch("preprocess", *words, cwd=desk)
    assert made.returncode == 0, made.stderr
    tasks = [desk / "shards/s/job/0000" / f"task-{task:05d}" for task in range(3)]
    for task, started_again in ((0, False), (1, False), (2, True)):
        monkeypatch.setenv(START, "0000000001-0000")
        write_progress(tasks[task], Progress(committed=0))
        write_failure(tasks[task], task, "OSError: disk on fire", "", retry=True)
        if started_again:
            monkeypatch.setenv(START, "0000000001-0001")
            write_progress(tasks[task], Progress(committed=0))

    said = launch("status", cwd=desk).stdout

    assert "2 tasks failed, and start again: OSError: disk on fire" in said
    assert "0 of 3" in said
    assert (
        "3 tasks (16 asked for: 13 would find no shard to make) for what is missing" in made.stdout
    )


def test_ages_are_said_as_a_person_says_them() -> None:
    assert [age(5), age(119), age(7200), age(86400 * 3)] == ["5 s", "119 s", "2 hours", "3 days"]
