"""A model is looked at by another process: what ends it is one line, and Ctrl-C is not for it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from instruct_core.errors import ConfigError
from launch.runs.model import inspect_weights


def loader(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have another program load models."""
    program = folder / "loader"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))


@pytest.mark.parametrize(
    ("script", "how"),
    [("kill -9 $$", "was killed, as for want of memory"), ("exit 3", "ended with 3")],
)
def test_process_that_ends_while_it_looks_at_a_model_is_one_line(
    script: str, how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader(tmp_path, script, monkeypatch)

    with pytest.raises(ConfigError, match=f"Model x cannot be looked at: .* {how}"):
        inspect_weights("x")


def test_ctrl_c_of_a_terminal_does_not_reach_who_loads_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = os.getpgrp()
    loader(tmp_path, 'echo "{\\"error\\": \\"group$(ps -o pgid= -p $$)\\"}"', monkeypatch)

    with pytest.raises(ConfigError, match=r"group *\d+") as said:
        inspect_weights("x")

    assert int(str(said.value).removeprefix("group")) != own


def test_who_was_killed_meanwhile_is_told_nothing(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "jobs.inspect_weights", str(tmp_path / "gone"), "", "0"]

    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)

    assert (done.returncode, done.stderr) == (0, b"")
