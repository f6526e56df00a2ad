"""What launch/control.py does and refuses, of runs at rest and in Slurm's queue."""

from __future__ import annotations

import fcntl
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from instruct_core.checkpoints.steps import committed_steps
from instruct_core.errors import ConfigError, MissingError
from jobs.control import ask, requests_in
from jobs.events import Resumed
from jobs.job_folder import START, Progress, write_progress
from jobs.ledger import Ledger
from launch.cluster.lock import RunLock
from launch.cluster.slurm import SlurmJob
from launch.console.lines import guarded
from launch.flags.control import Control, Verb, check_control
from launch.runs.control import at_rest as run_at_rest
from launch.runs.control import control
from launch.runs.removal import remove
from launch.runs.renaming import rename
from launch.runs.run import Run
from launch.runs.status import RunStatus
from launch.training.resume import resume
from tests.launch.played_slurm import PlayedSlurm
from tests.launch.runs.test_run import begin, save
from tests.launch.test_errors import snapshot


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return at_rest(tmp_path)


def at_rest(project: Path) -> Run:
    """Leave a run with two steps, a ledger and a job folder, that does not go on."""
    run = begin(project, "r")
    for step in (1, 2):
        save(run, step)
    Ledger(run.ledger, attempt=0).note(Resumed(step=0))
    (run.job_parent / "0000" / "code" / "jobs").mkdir(parents=True)
    (run.job_parent / "0000" / "code" / "jobs" / "control.py").touch()
    return run


def told(run: Run, verb: Verb, value: str | None = None, dry_run: bool = False) -> Control:
    return Control(run.name, verb, value, dry_run, run.checkpoints)


def queued(run: Run) -> None:
    """Put the run's job into Slurm's queue."""
    folder = run.job_parent / "0000"
    (folder / "job_ids").write_text("1\n")
    SlurmJob(folder, run.ledger.url).write_note(run.slurm_note)


def said(run: Run, state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(START, "0000")
    write_progress(run.job_parent / "0000", Progress(state=state, global_step=2, committed=2))


@pytest.mark.parametrize(
    ("verb", "value", "message"),
    [
        ("extend", None, "extend takes the step at which the run is to end, got nothing"),
        ("extend", "1e3", "a whole number, got '1e3'"),
        ("extend", "0", "a whole number, got '0'"),
        ("rename", None, "rename takes another name, got nothing"),
        ("rename", "../x", "rename NAME must be a plain name"),
        ("save", "now", "save takes nothing more, got 'now'"),
    ],
)
def test_words_that_make_no_sense_are_refused(
    run: Run, verb: Verb, value: str | None, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        check_control(told(run, verb, value))


@pytest.mark.parametrize("state", ["finished", "stopped", "paused"])
@pytest.mark.parametrize("verb", ["save", "pause"])
def test_run_at_rest_has_nothing_to_save_and_writes_nothing(
    run: Run, verb: Verb, state: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    said(run, state, monkeypatch)
    before = snapshot(tmp_path)

    with pytest.raises(ConfigError, match=f"Run r is not .*{state}"):
        control(told(run, verb))

    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("steps", ["9", "10"])
def test_end_that_is_not_later_is_refused(run: Run, steps: str) -> None:
    with pytest.raises(ConfigError, match=f"Run r ends at step 10, .* got {steps}"):
        control(told(run, "extend", steps))


def test_extended_run_has_its_new_end_for_every_command(run: Run) -> None:
    assert control(told(run, "extend", "30")) == 0

    assert Run.find("r", run.checkpoints).config.max_steps == 30
    with pytest.raises(ConfigError, match="Run r ends at step 30"):
        control(told(run, "extend", "20"))


@pytest.mark.parametrize("verb", ["save", "stop", "pause", "resume", "remove", "rename", "extend"])
def test_run_that_is_not_there_is_named(run: Run, verb: Verb, tmp_path: Path) -> None:
    flags = Control("x", verb, "20" if verb == "extend" else "y", False, run.checkpoints)
    work = {"remove": remove, "rename": rename, "resume": resume}.get(verb, control)
    before = snapshot(tmp_path)

    with pytest.raises(MissingError, match="Run x is not there"):
        work(flags)

    assert snapshot(tmp_path) == before


@pytest.fixture
def shared_place() -> Iterator[Path]:
    """A folder that other users can look into."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def as_nobody(work: Callable[[], int]) -> tuple[int, str]:
    """Return the exit code of a launcher's work and what it says, as a user who owns nothing."""
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        os.setgid(65534)
        os.setuid(65534)
        sys.stderr = os.fdopen(writer, "w")
        os._exit(guarded(work))
    os.close(writer)
    with os.fdopen(reader) as pipe:
        said = pipe.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize(
    ("verb", "value"), [("stop", None), ("extend", "30"), ("rename", "q"), ("remove", None)]
)
def test_who_may_not_write_the_folder_of_a_run_is_refused_in_one_line(
    verb: Verb, value: str | None, shared_place: Path
) -> None:
    run = begin(shared_place, "r")
    work = {"remove": remove, "rename": rename}.get(verb, control)
    with run.store.local_path("lock").open("w") as held:
        if verb == "stop":  # of a run that trains
            fcntl.flock(held, fcntl.LOCK_EX)
            held.write('{"pid": 1, "folder": "x", "ledger": "y"}\n')
            held.flush()
        before = snapshot(shared_place)

        code, line = as_nobody(lambda: work(told(run, verb, value)))

    assert (code, line.count("\n")) == (2, 1)
    assert line.startswith("error: Run r does this for those who may write its folder")
    assert "Permission denied" in line
    assert snapshot(shared_place) == before


def test_job_that_waits_is_taken_out_of_the_queue(run: Run, slurm: PlayedSlurm) -> None:
    queued(run)
    slurm.add("1")

    assert control(told(run, "pause")) == 0

    assert slurm.state("1") == "CANCELLED"
    assert RunStatus.of(run).state() == "paused"


def test_job_that_is_not_ours_to_cancel_ends_when_it_starts(
    run: Run, slurm: PlayedSlurm, capsys: pytest.CaptureFixture[str]
) -> None:
    queued(run)
    slurm.add("1")
    slurm.client("scancel", "echo 'Access/permission denied' >&2; exit 1")

    assert control(told(run, "stop")) == 0

    assert "ends as soon as it starts" in capsys.readouterr().out
    assert "stop asked for by" in RunStatus.of(run).note()


def test_pause_of_a_job_that_waits_can_be_taken_back(run: Run, slurm: PlayedSlurm) -> None:
    queued(run)
    slurm.add("1")
    ask(run.store, "pause", "anna@login1")

    assert resume(told(run, "resume")) == 0

    assert [request.verb for request in requests_in(run.store)] == ["pause", "resume"]
    assert RunStatus.of(run).asked() is None


@pytest.mark.parametrize("verb", ["remove", "rename"])
def test_queued_run_is_neither_removed_nor_renamed(
    run: Run, verb: Verb, slurm: PlayedSlurm
) -> None:
    queued(run)
    slurm.add("1")

    with pytest.raises(ConfigError, match=f"Run r cannot be {verb}d: job 1, PENDING"):
        {"remove": remove, "rename": rename}[verb](told(run, verb, "q"))

    assert committed_steps(run.store) == [1, 2]


@pytest.mark.parametrize(
    ("verb", "other", "done"), [("rename", "removed", "renamed"), ("remove", "renamed", "removed")]
)
def test_run_that_is_just_being_removed_or_renamed_is_told_so(
    run: Run, verb: Verb, other: str, done: str
) -> None:
    with (
        run_at_rest(run, other),
        pytest.raises(ConfigError, match=f"Run r is being {other} by another launcher"),
    ):
        {"remove": remove, "rename": rename}[verb](told(run, verb, "q"))
    lock = RunLock(run.lock)
    assert lock.acquire()
    lock.name_job(os.getpid(), run.job_parent, run.ledger.url)

    with pytest.raises(ConfigError, match=f"Run r cannot be {done}: it is training"):
        {"remove": remove, "rename": rename}[verb](told(run, verb, "q"))

    lock.close()


def test_code_that_takes_no_requests_is_said_before_it_is_asked(
    run: Run, slurm: PlayedSlurm
) -> None:
    queued(run)
    slurm.add("1")
    (run.job_parent / "0000" / "code" / "jobs" / "control.py").unlink()

    with pytest.raises(ConfigError, match="takes no requests"):
        control(told(run, "stop"))

    assert requests_in(run.store) == []


def test_dry_run_says_what_would_go_and_removes_nothing(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = snapshot(tmp_path)

    assert remove(told(run, "remove", dry_run=True)) == 0

    assert snapshot(tmp_path) == before
    num_bytes = sum(len(data) for name, data in before.items() if "shards" not in name)
    assert f"{num_bytes:,} bytes in all" in capsys.readouterr().out


def test_name_that_is_taken_is_refused(run: Run, tmp_path: Path) -> None:
    begin(tmp_path, "q")
    before = snapshot(tmp_path)

    with pytest.raises(ConfigError, match="must be a name that is free, got q"):
        rename(told(run, "rename", "q"))

    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("verb", ["remove", "rename"])
def test_folder_of_the_runs_name_that_is_no_ledger_stays(
    run: Run, verb: Verb, tmp_path: Path
) -> None:
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "thesis.tex").write_text("mine")
    before = snapshot(tmp_path)
    flags = replace(told(run, verb, "s" if verb == "rename" else None), runs=str(tmp_path))

    with pytest.raises(ConfigError, match=f"--runs {tmp_path} has nothing of run r: no ledger"):
        {"remove": remove, "rename": rename}[verb](flags)

    assert snapshot(tmp_path) == before
    assert remove(replace(told(run, "remove"), runs=str(tmp_path / "runs_instruct"))) == 0
