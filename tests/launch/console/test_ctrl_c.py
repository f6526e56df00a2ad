"""Ctrl-C at any time of a command's life ends it quietly, while Python loads it and while it ends too."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from launch.console.lines import guarded
from tests.conftest import REPO, environment

DOORS = sorted(path.stem for path in (REPO / "launch").glob("[a-z]*.py"))
AT_AN_IMPORT = """
import os, signal, sys

class PressesCtrlC:
    def find_spec(self, name, *_):
        if name == os.environ["CTRL_C_AT"]:
            os.kill(os.getpid(), signal.SIGINT)
            for _ in range(1000):  # a handler is called between two steps of Python
                pass

sys.meta_path.insert(0, PressesCtrlC())
"""
AT_THE_END = """
import atexit, os, signal

def press():
    os.kill(os.getpid(), signal.SIGINT)
    for _ in range(1000):
        pass

atexit.register(press)
"""


def interrupted(
    folder: Path, start_up: str, *words: str, at: str = "", ignored: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, with a start-up of Python that presses Ctrl-C."""
    (folder / "sitecustomize.py").write_text(start_up)
    env = environment() | {"PYTHONPATH": str(folder), "CTRL_C_AT": at}
    handler = signal.SIG_IGN if ignored else signal.SIG_DFL
    return subprocess.run(
        [sys.executable, str(REPO / "launch" / f"{words[0]}.py"), *words[1:]],
        env=env, cwd=folder, capture_output=True, text=True, check=False,
        preexec_fn=lambda: signal.signal(signal.SIGINT, handler),
    )  # fmt: skip


@pytest.mark.parametrize("at", ["launch.console.lines", "tyro"])
@pytest.mark.parametrize("door", DOORS)
def test_ctrl_c_while_a_command_is_loaded_is_no_traceback(
    tmp_path: Path, door: str, at: str
) -> None:
    ended = interrupted(tmp_path, AT_AN_IMPORT, door, "--help", at=at)

    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "")


def test_ctrl_c_while_the_work_of_a_command_is_loaded_is_no_traceback(tmp_path: Path) -> None:
    ended = interrupted(tmp_path, AT_AN_IMPORT, "status", at="launch.runs.overview")

    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "")


def test_ctrl_c_while_a_command_ends_is_no_traceback(tmp_path: Path) -> None:
    ended = interrupted(tmp_path, AT_THE_END, "demo", "--help")

    assert (ended.returncode, ended.stderr) == (130, "")
    assert "usage: python launch/demo.py" in ended.stdout


def test_command_that_was_told_to_ignore_ctrl_c_is_loaded_all_the_same(tmp_path: Path) -> None:
    ended = interrupted(tmp_path, AT_AN_IMPORT, "demo", "--help", at="tyro", ignored=True)

    assert (ended.returncode, ended.stderr) == (0, "")
    assert "usage: python launch/demo.py" in ended.stdout


def test_ctrl_c_in_the_work_of_a_command_is_an_exception_and_nothing_of_it_stays() -> None:
    seen = []

    def main() -> int:
        try:
            os.kill(os.getpid(), signal.SIGINT)
            signal.pause()
        except KeyboardInterrupt:
            seen.append("undone")
            raise
        return 0

    before = signal.getsignal(signal.SIGINT)
    assert guarded(main) == 130
    assert seen == ["undone"]
    assert signal.getsignal(signal.SIGINT) is before


def test_command_in_a_process_whose_ctrl_c_is_a_c_librarys_ends_with_its_own_code(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = signal.getsignal(signal.SIGINT)
    from_c = SimpleNamespace(**vars(signal) | {"getsignal": lambda _: None})
    monkeypatch.setattr("launch.console.lines.signal", from_c)
    try:
        assert guarded(lambda: 5) == 5
    finally:
        signal.signal(signal.SIGINT, before)
