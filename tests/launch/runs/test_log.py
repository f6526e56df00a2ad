"""launch/logs.py: what was logged, by a run or by the tasks of an array, and what a job waits for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from instruct_core.errors import ConfigError, MissingError
from launch.cluster.slurm import SlurmJob
from launch.console.display import zone
from launch.console.lines import EXIT_FAILED
from launch.flags.logs import Logs
from launch.runs.log import show_log
from tests.launch.played_slurm import PlayedSlurm
from tests.launch.runs.test_overview import HOSTILE
from tests.launch.runs.test_status import queued


def at_each_pause(monkeypatch: pytest.MonkeyPatch, *acts: Callable[[], object]) -> None:
    """Have something happen whenever a follower would wait; nothing waits."""
    left: Iterator[Callable[[], object]] = iter(acts)
    # Slurm is asked anew each time.
    monkeypatch.setattr("launch.cluster.slurm.ASK_AGAIN_SECONDS", -1.0)
    monkeypatch.setattr("launch.runs.log.pause", lambda _: next(left)())


@pytest.fixture
def array(tmp_path: Path, slurm: PlayedSlurm) -> Path:
    """The place of a shard set that two arrays make: tasks 0 to 1, and 1000."""
    folder = tmp_path / "shards/s/job/0000"
    folder.mkdir(parents=True)
    (folder / "job_ids").write_text("7\n8\n")
    for first in (0, 1000):
        (folder / f"job-{first:07d}.sh").touch()
    for name in ("7_0", "7_1", "8_0"):
        (folder / f"{name}_0_log.out").write_text(f"log of {name}\n")
    SlurmJob(folder).write_note(folder.parent / "slurm.json")
    return tmp_path / "shards/s"


def test_log_of_a_run_that_never_starts_is_not_waited_for(
    project: Path, slurm: PlayedSlurm, capsys: pytest.CaptureFixture[str]
) -> None:
    queued(project, slurm, Reason="DependencyNeverSatisfied")

    exit_code = show_log(Logs("r", follow=True, checkpoints=str(project / "checkpoints")))

    assert exit_code == EXIT_FAILED
    assert "run r can never start" in capsys.readouterr().err


def test_follower_of_a_queued_run_says_for_what_and_until_when(
    project: Path,
    slurm: PlayedSlurm,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    queued(project, slurm, Reason="Resources", StartTime="2001-01-01T08:00:00")
    log = project / "runs/r/job/0000/1_0_log.out"
    at_each_pause(
        monkeypatch,
        lambda: None,  # nothing is new, so nothing is said
        lambda: slurm.change("1", Reason="Priority", StartTime="Unknown"),
        lambda: (slurm.change("1", JobState="RUNNING"), log.write_text("step 1\n")),
        lambda: slurm.change("1", JobState="PENDING", Reason="BeginTime"),
        lambda: (slurm.change("1", JobState="COMPLETED"), log.write_text("step 1\nstep 2\n")),
    )

    exit_code = show_log(Logs("r", follow=True, checkpoints=str(project / "checkpoints")))

    said = capsys.readouterr()
    assert exit_code == 0
    assert said.out == "step 1\nstep 2\n"
    assert [line.partition(";")[0] for line in said.err.splitlines()] == [
        "Run r: PENDING (Resources)", "Run r: PENDING (Priority)", "Run r: RUNNING",
        "Run r: PENDING (BeginTime)",
    ]  # fmt: skip
    assert f"expected start 2001-01-01T08:00:00 {zone()}; waits for free nodes" in said.err
    assert "comes back after a requeue" in said.err


def test_queued_run_that_has_logged_nothing_says_what_it_waits_for(
    project: Path, slurm: PlayedSlurm, capsys: pytest.CaptureFixture[str]
) -> None:
    queued(project, slurm, Reason="JobHeldUser")

    show_log(Logs("r", checkpoints=str(project / "checkpoints")))

    said = capsys.readouterr().err
    assert said == (
        "Run r has logged nothing yet: PENDING (JobHeldUser); it is held: scontrol release 1.\n"
    )


def test_rank_without_a_log_is_named_and_one_below_zero_refused(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = str(project / "checkpoints")

    show_log(Logs("r", rank=7, checkpoints=place))

    assert capsys.readouterr().err == "Rank 7 of run r has logged nothing yet: not started.\n"
    with pytest.raises(ConfigError, match="--rank must be at least 0, got -1"):
        show_log(Logs("r", rank=-1, checkpoints=place))
    (project / "runs/r/job/0000").mkdir(parents=True, exist_ok=True)
    (project / "runs/r/job/0000/1_1_log.out").touch()
    with pytest.raises(
        MissingError, match=r"--rank must be at most 1, got 7: no other rank of run r"
    ):
        show_log(Logs("r", rank=7, checkpoints=place))


def test_files_with_names_like_those_of_logs_are_no_logs(
    project: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run, task = project / "runs/r/job/0000", tmp_path / "a.jsonl.parts/job/0000/task-00002"
    for folder in (run, task):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "1_0_log.out").write_text("ours\n")
        for name in ("old_0_log.out", "my_own_log.out", "1__log.out", "1_0_0_log.out"):
            (folder / name).write_text("somebody's\n")
    monkeypatch.chdir(tmp_path)

    show_log(Logs("r", checkpoints=str(project / "checkpoints")))
    show_log(Logs("a.jsonl"))

    assert capsys.readouterr().out == "ours\n=== task 2\nours\n"
    with pytest.raises(MissingError, match="--rank must be at most 0, got 7"):
        show_log(Logs("r", rank=7, checkpoints=str(project / "checkpoints")))


@pytest.mark.parametrize("place", ["s", "shards/s"])
def test_logs_of_an_array_are_those_of_its_tasks_by_their_numbers(
    array: Path,
    place: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(array.parents[1])

    show_log(Logs(place))
    whole = capsys.readouterr().out
    show_log(Logs(place, task=1000))
    one = capsys.readouterr().out
    with pytest.raises(
        MissingError, match=r"^--task 9 is not there: .* first is 0 and the last 1000\.$"
    ):
        show_log(Logs(place, task=9))

    assert whole.splitlines() == [
        "=== task 0", "log of 7_0", "=== task 1", "log of 7_1", "=== task 1000", "log of 8_0",
    ]  # fmt: skip
    assert one == "=== task 1000\nlog of 8_0\n"


def test_logs_of_tasks_on_this_machine_and_of_answers_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "a.jsonl.parts/job/0000/task-00002"
    folder.mkdir(parents=True)
    (folder / "123_0_log.out").write_text("answered\n")
    monkeypatch.chdir(tmp_path)

    show_log(Logs("a.jsonl"))

    assert capsys.readouterr().out == "=== task 2\nanswered\n"


def test_set_that_no_tasks_made_is_named_as_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shards/s").mkdir(parents=True)
    (tmp_path / "shards/s/plan.json").touch()
    monkeypatch.chdir(tmp_path)

    with pytest.raises(MissingError, match="Shard set shards/s has no log: no tasks made it"):
        show_log(Logs("s"))


def test_flags_of_the_other_kind_are_refused(
    project: Path, array: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(array.parents[1])
    checkpoints = str(project / "checkpoints")

    for words, message in (
        (Logs("r", task=1, checkpoints=checkpoints), "--task is of an array, and r is a run"),
        (Logs("s", rank=1), "--rank is of a run, and s is an array"),
        (Logs("s", task=-1), "--task must be at least 0, got -1"),
    ):
        with pytest.raises(ConfigError, match=message):
            show_log(words)
    with pytest.raises(MissingError, match="Run gone is not there"):
        show_log(Logs("gone", checkpoints=checkpoints))


def test_what_is_logged_moves_no_cursor_and_a_letter_may_come_in_two(
    project: Path,
    slurm: PlayedSlurm,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    queued(project, slurm, JobState="RUNNING")
    log = project / "runs/r/job/0000/1_0_log.out"
    text = f"{HOSTILE}\rü\n".encode()
    log.write_bytes(text[:-2])
    at_each_pause(
        monkeypatch, lambda: (log.write_bytes(text), slurm.change("1", JobState="COMPLETED"))
    )

    show_log(Logs("r", follow=True, checkpoints=str(project / "checkpoints")))

    shown = "<b>\\u001b[2J\\u202ebold[/red]\nnext\nü\n"
    assert capsys.readouterr().out == shown
