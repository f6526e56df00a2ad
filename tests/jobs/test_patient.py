"""Code on a disk that fails for a while: modules that do when they are imported."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from jobs import patient
from jobs.patient import load
from tests.conftest import HANGS_SECONDS, REPO
from tests.slow_clock import Clock


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that Python finds modules in."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(patient, "PAUSE_SECONDS", 0.0)
    return tmp_path


def fails(code: Path, name: str, error: str, times: int) -> Path:
    """Write a module that cannot be read at first; return where it counts the tries."""
    tries = code / f"{name}-tries"
    (code / f"{name}.py").write_text(
        "import errno, pathlib, sys\n"
        f"tries = pathlib.Path({str(tries)!r})\n"
        "with tries.open('a') as file: file.write('x')\n"
        f"if tries.stat().st_size <= {times}: raise {error}\n"
        "def main(): print(*sys.argv)\n"
    )
    return tries


@pytest.mark.parametrize(
    "error",
    [
        "OSError(errno.EIO, 'x')",
        "OSError(errno.ESTALE, 'x')",
        "ModuleNotFoundError('No module')",
        "ImportError('cannot import name', name='instruct_core')",  # ranks: a file of it
    ],
)
def test_module_that_cannot_be_read_for_a_while_is_loaded_later(code: Path, error: str) -> None:
    tries = fails(code, "unread", error, times=3)
    sys.modules.pop("unread", None)

    module = load("unread")

    assert module is sys.modules["unread"]
    assert tries.stat().st_size == 4


@pytest.mark.parametrize(
    "error",
    [
        "OSError(errno.EACCES, 'x')",
        "OSError('no libcuda')",
        "KeyError",
        "ImportError('cannot import name', name='torch')",
    ],
)
def test_what_another_try_will_not_change_is_raised_at_once(code: Path, error: str) -> None:
    tries = fails(code, "forbidden", error, times=9)

    with pytest.raises((OSError, KeyError, ImportError)):
        load("forbidden")

    assert tries.stat().st_size == 1


@pytest.mark.parametrize(
    ("error", "seconds"),
    [("OSError(errno.EIO, 'x')", 900), ("ModuleNotFoundError('No module named torch')", 20)],
)
def test_code_that_stays_away_is_given_up(
    code: Path, monkeypatch: pytest.MonkeyPatch, error: str, seconds: int
) -> None:
    tries = fails(code, "away", error, times=1000)
    monkeypatch.setattr(patient, "time", Clock())
    monkeypatch.setattr(patient, "PAUSE_SECONDS", 1.0)

    with pytest.raises((OSError, ModuleNotFoundError)):
        load("away")

    assert tries.stat().st_size == pytest.approx(seconds, abs=2)


def test_words_after_the_module_are_its_own(code: Path) -> None:
    fails(code, "program", "OSError(errno.EIO, 'x')", times=1)

    done = subprocess.run(
        [sys.executable, "-m", "jobs.patient", "program", "19", "a b"],
        env=os.environ | {"PYTHONPATH": f"{REPO}:{code}"}, capture_output=True, text=True,
        timeout=HANGS_SECONDS, check=True,
    )  # fmt: skip

    assert done.stdout == "program 19 a b\n"
    assert done.stderr == f"The code is read again: [Errno {errno.EIO}] x\n"


def test_what_was_broken_off_and_cannot_be_read_once_more_is_put_down_to_the_disk(
    code: Path,
) -> None:
    (code / "torchlike.py").write_text(
        "import errno, pathlib\n"
        f"tried = pathlib.Path({str(code / 'tried')!r})\n"
        "if tried.exists(): raise RuntimeError('already has a docstring')\n"
        "tried.touch()\n"
        "raise OSError(errno.ESTALE, 'x')\n"
    )

    with pytest.raises(OSError, match="read in part: already has") as caught:
        load("torchlike")

    assert caught.value.errno == errno.EIO


@pytest.mark.parametrize(
    ("missing", "wanted"),
    [("jobs/finetune.py", "jobs.finetune"), ("jobs/survival/__init__.py", "jobs.survival.rank")],
)
def test_job_takes_no_module_from_where_the_project_is_installed(
    tmp_path: Path, missing: str, wanted: str
) -> None:
    for package in ("jobs", "instruct_core"):
        shutil.copytree(REPO / package, tmp_path / "code" / package)
    (tmp_path / "code" / missing).unlink()
    program = "import sys, jobs.patient as patient; patient.NOT_FOUND_SECONDS = 0.0; patient.main()"

    done = subprocess.run(
        [sys.executable, "-P", "-c", program, wanted],
        env=os.environ | {"PYTHONPATH": f"{tmp_path / 'code'}:{REPO}"}, capture_output=True,
        text=True, timeout=HANGS_SECONDS, check=False,
    )  # fmt: skip

    assert done.returncode == 1
    assert f"in {tmp_path / 'code'}" in done.stderr.splitlines()[-1]
