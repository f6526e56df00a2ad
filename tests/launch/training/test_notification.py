"""Whether a run that starts again tells those who were told before."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from instruct_core.storage.documents import dump_document
from jobs.environment import NOTIFY
from launch.flags.finetune import Finetune
from launch.runs.run import Run
from launch.training.notification import hand_on
from launch.training.settings import asked_of

URL = "https://hooks.example/secret"


def run_that_was_started_with(notify: str | None, folder: Path) -> Run:
    run = Run.named("r", str(folder))
    run.store.replace("run.json", dump_document({"asked": asked_of(Finetune(notify=notify))}))
    return run


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NOTIFY, "")


def test_url_that_nobody_types_again_is_missed_aloud_and_is_in_no_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_that_was_started_with(URL, tmp_path)

    hand_on(None, run)

    said = capsys.readouterr().out
    assert said.startswith(
        "Note: nobody is notified: a URL that is typed is kept nowhere. Type --notify"
    )
    assert b"secret" not in run.store.read("run.json")


@pytest.mark.parametrize("before", [None, "/home/ada/hook"])
def test_run_that_was_told_of_no_url_misses_none(
    before: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hand_on(None, run_that_was_started_with(before, tmp_path))
    hand_on(None, Run.named("new", str(tmp_path)))

    assert capsys.readouterr().out == ""


def test_url_of_the_environment_is_as_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_that_was_started_with(URL, tmp_path)
    monkeypatch.setenv(NOTIFY, URL)

    hand_on(None, run)

    assert (capsys.readouterr().out, os.environ[NOTIFY]) == ("", URL)
