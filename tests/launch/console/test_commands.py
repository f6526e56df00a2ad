"""Commands in messages can be pasted: where the person stands, with the Python that they typed."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from launch.console import commands
from launch.console.commands import as_typed, command
from tests.conftest import REPO


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that a person stands in, whose `python` is that of the environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    return tmp_path


def test_command_is_quoted_for_a_shell(here: Path) -> None:
    words = ["--run", "r", "--checkpoints", "my runs/$HOME"]

    said = command("chat", *words)

    assert shlex.split(said) == ["python", "launch/chat.py", *words]


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("launch/status.py", "launch/"),
        ("../code/launch/status.py", "../code/launch/"),
        ("my code/launch/status.py", "my code/launch/"),
        ("status.py", ""),
    ],
)
def test_command_stands_where_the_typed_one_did(
    typed: str, said: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "LAUNCH", (here / typed).parent.resolve())
    monkeypatch.setattr(commands.sys, "argv", [typed])

    assert command("logs", "r") == f"python {shlex.quote(f'{said}logs.py')} r"


def test_python_of_another_environment_is_not_the_one_that_is_named(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = here / "env" / "bin" / "python"
    monkeypatch.setattr(commands.sys, "executable", str(own))
    monkeypatch.setattr(commands, "LAUNCH", here / "launch")
    monkeypatch.setattr(commands.sys, "argv", ["launch/status.py"])

    assert command("logs", "r") == "env/bin/python launch/logs.py r"


def test_only_commands_of_ours_are_changed(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "LAUNCH", here / "code" / "launch")
    monkeypatch.setattr(commands.sys, "argv", ["code/launch/x.py"])
    text = "In ipython launch/x.py, python launcher.py and python launch/notes.txt"

    said = as_typed(f"{text}. Again: python launch/logs.py r")

    assert said == f"{text}. Again: python code/launch/logs.py r"


def test_what_an_error_says_to_type_works_as_pasted(tmp_path: Path) -> None:
    desk, link = tmp_path / "my desk", tmp_path / "the code"
    desk.mkdir()
    link.symlink_to(REPO)
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    typed = [sys.executable, "../the code/launch/status.py", "--no-such-flag"]

    refused = subprocess.run(
        typed, cwd=desk, env=clean, capture_output=True, text=True, check=False
    )
    pasted = refused.stderr.rpartition(" See ")[2].rstrip().removesuffix(".")
    helped = subprocess.run(
        ["sh", "-c", pasted], cwd=desk, env=clean, capture_output=True, text=True, check=False
    )

    assert "'../the code/launch/status.py' --help" in pasted
    assert (helped.returncode, helped.stdout.startswith("usage: ")) == (0, True)


def test_command_of_another_copy_says_whose_code_runs(tmp_path: Path) -> None:
    copy, link = tmp_path / "copy", tmp_path / "link"
    shutil.copytree(REPO / "launch", copy / "launch", ignore=shutil.ignore_patterns("__pycache__"))
    link.symlink_to(REPO)
    env = os.environ | {"PYTHONPATH": str(REPO)}

    said = [
        subprocess.run(
            [sys.executable, place / "launch" / "status.py", "--no-such-flag"], cwd=tmp_path, env=env,
            capture_output=True, text=True, check=False,
        ).stderr
        for place in (copy, link, REPO)
    ]  # fmt: skip

    assert f"has {REPO} installed, so its code runs, and not that of {copy}." in said[0]
    assert [text.count("\n") for text in said] == [2, 1, 1]
