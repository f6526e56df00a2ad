"""A bucket that does not answer: named once, and what this machine knows of its runs is shown."""

from __future__ import annotations

import errno
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import s3fs

from instruct_core.errors import ConfigError, MissingError
from instruct_core.storage.disk import Disk
from instruct_core.storage.documents import dump_document
from instruct_core.storage.store import Store
from launch.cluster.slurm import Controller
from launch.flags.status import Status
from launch.runs import away
from launch.runs.away import Look
from launch.runs.overview import show_status
from launch.runs.run import Run
from launch.runs.status import RunStatus

TOLD = {
    "state": "running", "global_step": 4, "max_steps": 10, "committed": 3, "loss": 2.5, "attempt": 1,
    "tokens_per_second": 100.0,
}  # fmt: skip
CELLS = "4 of 10  ████······ 40%  2.5000  100       1        step 3"


@pytest.fixture
def nobody_answers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "user")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret-of-nobody")
    s3fs.S3FileSystem.clear_instance_cache()  # another test's may know no credentials
    yield
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def far(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that a person types in, with the jobs of the run r, whose checkpoints are in a bucket."""
    (project / "runs").rename(project / "runs_instruct")
    (project / "runs_instruct/r/job/lock").touch()
    told = dict(TOLD, ledger=str(project / "runs_instruct/r"))
    path = project / "runs_instruct/r/job/0000/progress-0000.json"
    path.write_text(json.dumps(told))
    monkeypatch.chdir(project)
    return project


@pytest.mark.usefixtures("nobody_answers")
def test_runs_of_a_bucket_that_is_away_are_shown_as_this_machine_knows_them(
    far: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("s3://bucket/runs", str(far))

    show_status(Status(checkpoints=flags[0], shards=flags[1]))
    table = capsys.readouterr().out
    show_status(Status("r", checkpoints=flags[0], json=True))
    document = json.loads(capsys.readouterr().out)

    _, row, line = table.splitlines()
    assert row.startswith(" r    running       ")
    assert CELLS in row
    assert line.startswith("s3://bucket does not answer: ")
    assert line.endswith(". What this machine knows is shown.")
    assert (document["run"], document["step"], document["saved_step"]) == ("r", 4, 3)
    assert document["error"].startswith("s3://bucket does not answer: ")
    assert "secret-of-nobody" not in table + str(document)


def test_bucket_with_the_ledgers_of_many_runs_is_asked_once(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(away, "_asked", lambda place: asked.append(place) or TimeoutError("no"))
    document = json.loads((project / "checkpoints/r/run.json").read_text())
    for name in ("a", "b", "r"):
        document["config"] |= {"run": name, "runs": "s3://bucket/ledgers"}
        Store(project / "checkpoints" / name).replace("run.json", dump_document(document))

    show_status(Status(checkpoints=str(project / "checkpoints"), shards=str(project), json=True))

    said = json.loads(capsys.readouterr().out)
    assert asked == ["s3://bucket/ledgers/a"]
    assert [run["run"] for run in said["runs"]] == ["a", "b", "r"]
    assert said["away"] == ["s3://bucket does not answer: no"]


def test_bucket_that_stops_answering_is_asked_again(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([None, TimeoutError("no")])
    monkeypatch.setattr(away, "_asked", lambda _: next(answers))
    document = json.loads((project / "checkpoints/r/run.json").read_text())
    for name in ("a", "b", "r"):
        document["config"] |= {"run": name, "runs": "s3://bucket/ledgers"}
        Store(project / "checkpoints" / name).replace("run.json", dump_document(document))

    def fail(*_: object) -> RunStatus:
        raise ConnectionResetError("cut off")

    monkeypatch.setattr(RunStatus, "at_a_glance", fail)

    told = Look(Controller()).at_all(
        str(project / "checkpoints"), None, RunStatus.note, lambda known: known.problem
    )

    assert told == ["cut off", *["s3://bucket does not answer: no"] * 2]


def test_run_that_somebody_keeps_to_himself_hides_no_others(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoints = project / "checkpoints"
    shutil.copytree(checkpoints / "r", checkpoints / "private")
    asked = Disk.patiently

    def refused(disk: Disk, name: str, call: Callable[[], object]) -> object:
        path = disk.root / name
        if "private" in path.parts:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return asked(disk, name, call)

    monkeypatch.setattr(Disk, "patiently", refused)

    show_status(Status(checkpoints=str(checkpoints), shards=str(project)))
    with pytest.raises(ConfigError, match=r"/private/run\.json: Permission denied"):
        show_status(Status("private", checkpoints=str(checkpoints)))
    with pytest.raises(MissingError, match=r"No run in .* has saved yet"):
        Run.latest(str(checkpoints))

    _, private, mine = capsys.readouterr().out.splitlines()
    assert private.split()[:2] == ["private", "unreadable"]
    assert private.endswith("private/run.json: Permission denied")
    assert mine.split()[:3] == ["r", "not", "started"]


@pytest.mark.usefixtures("nobody_answers", "far")
def test_run_that_is_not_known_here_is_refused_in_one_line() -> None:
    with pytest.raises(ConfigError, match=r"Run other is not known here, and s3://bucket does not"):
        show_status(Status("other", checkpoints="s3://bucket/runs"))


def test_store_that_answers_nothing_is_waited_for_some_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(away, "ANSWER_SECONDS", 0.05)
    never = threading.Event()
    monkeypatch.setattr(Store, "names", lambda _: never.wait(60))

    problem = Look(Controller())._problem_of("memory://bucket/runs")
    never.set()

    assert problem == "memory://bucket does not answer: nothing within 0 s"
