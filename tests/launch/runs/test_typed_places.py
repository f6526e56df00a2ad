"""Places to look in, for every command: a file, a folder that is not there, one of somebody else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from instruct_core.storage.store import Store
from jobs.events import Resumed
from jobs.ledger import Ledger
from launch.flags.status import Status
from launch.runs.overview import show_status
from tests.launch.runs.conftest import Refusal
from tests.launch.runs.test_run import COMMANDS, begin, save

LOOKING = {command: line for command, line in COMMANDS.items() if command != "finetune"}
PLACES = {
    "--runs=file": "--runs {0}/file cannot be used: Not a directory",
    "--runs=nothere": "--runs {0}/nothere cannot be used: No such file or directory",
    "--runs=folder": "--runs {0}/folder has nothing of run r: no ledger and no job in {0}/folder/r",
    "--checkpoints=file": "{0}/file/r cannot be used: Not a directory. Look at --checkpoints",
    "--checkpoints=nothere": "Run r is not there: no {0}/nothere/r/run.json",
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("command", LOOKING)
def test_place_to_look_in_that_has_nothing_of_a_run_is_refused_by_every_command(
    command: str, place: str, tmp_path: Path, refusal: Refusal
) -> None:
    run = begin(tmp_path, "r")
    save(run, 1)
    Ledger(run.ledger, attempt=0).note(Resumed(step=0))
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()

    words = ("r" if word == "NAME" else word for word in LOOKING[command].split())
    line = refusal(*words, place)

    assert PLACES[place].format(tmp_path) in line


@pytest.mark.parametrize(
    ("script", "flags", "message"),
    [
        ("status.py", "--runs=file", "--runs file cannot be used: {0}/file: Not a directory"),
        ("status.py", "--runs=nothere", "--runs nothere cannot be used: {0}/nothere: No such file"),
        (
            "status.py",
            "--checkpoints=file",
            "--checkpoints file cannot be used: {0}/file: Not a dir",
        ),
        ("status.py", "--checkpoints=gone", "--checkpoints gone cannot be used: {0}/gone: No such"),
        ("status.py", "--shards=file", "--shards file cannot be used: {0}/file: Not a directory"),
        ("status.py", "--shards=gone", "--shards gone cannot be used: {0}/gone: No such file"),
        ("logs.py", "r --shards=file", "--shards file cannot be used: {0}/file: Not a directory"),
        ("logs.py", "s --shards=gone", "--shards gone cannot be used: {0}/gone: No such file"),
        ("chat.py", "--checkpoints=file", "--checkpoints file cannot be used: {0}/file: Not a dir"),
        ("evaluate.py", "--checkpoint={1} --runs=folder", "--runs {0}/folder has nothing of run r"),
    ],
)
def test_place_to_look_in_for_whatever_is_there_must_be_a_folder(
    script: str, flags: str, message: str, tmp_path: Path, refusal: Refusal
) -> None:
    run = begin(tmp_path, "r")
    save(run, 1)
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()

    line = refusal(script, *flags.format(tmp_path, run.step_place(1)).split())

    assert message.format(tmp_path) in line


def test_runs_of_which_a_typed_place_has_nothing_are_told_as_that_and_hide_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        begin(tmp_path, name)
    Ledger(Store(tmp_path / "other" / "a"), attempt=0).note(Resumed(step=0))
    monkeypatch.chdir(tmp_path)

    show_status(Status(runs="other", json=True))

    a, b = json.loads(capsys.readouterr().out)["runs"]
    assert "error" not in a
    assert (b["run"], b["state"]) == ("b", "unreadable")
    assert b["error"].startswith(f"--runs {tmp_path}/other has nothing of run b")
