"""The copy of the code that a job runs."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from launch.cluster import frozen_code
from launch.cluster.frozen_code import CODE, freeze_code
from launch.cluster.job_folder import job_folders, new_job_folder

NAMED = "import jobs.job_folder; print(jobs.job_folder.__file__)"


def imported_from(code: Path) -> str:
    """Import a module of a copy in a Python of its own, and return where that found it."""
    env = os.environ | {"PYTHONPATH": str(code)}
    done = subprocess.run(
        [sys.executable, "-c", NAMED],
        cwd=code.parent,
        env=env,
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


def compiled(code: Path) -> dict[Path, int]:
    return {path: path.stat().st_ino for path in code.rglob("*.pyc")}


def test_ranks_find_the_code_compiled(tmp_path: Path) -> None:
    freeze_code(tmp_path)
    code = tmp_path / CODE
    before = compiled(code)

    found = imported_from(code)

    assert found == str(code / "jobs" / "job_folder.py")
    assert len(before) == len(list(code.rglob("*.py")))
    assert compiled(code) == before


def test_copy_that_is_edited_is_what_runs(tmp_path: Path) -> None:
    freeze_code(tmp_path)
    code = tmp_path / CODE
    with (code / "jobs" / "job_folder.py").open("a") as file:
        file.write("__file__ = 'edited'\n")

    assert imported_from(code) == "edited"


def test_code_for_which_there_is_no_room_is_told_with_the_place_and_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def copy(source: Path, target: Path) -> None:
        why = errno.ENOSPC, "No space left on device"
        raise OSError(*why, str(source), None, str(target))  # as shutil does

    monkeypatch.setattr(frozen_code, "_copy", copy)

    with pytest.raises(
        OSError, match=rf": {tmp_path}/code/jobs/.*: No space.*\. Make room, and give"
    ):
        freeze_code(tmp_path)


def test_full_disk_leaves_no_job_folder_without_its_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied: list[Path] = []

    def fill(source: Path, target: Path) -> None:
        if len(copied) == 5:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
        copied.append(shutil.copyfile(source, target))

    monkeypatch.setattr(frozen_code, "shutil", SimpleNamespace(copy2=fill, rmtree=shutil.rmtree))

    with pytest.raises(OSError, match=r"could not be copied: .*No space left on device"):
        freeze_code(new_job_folder(tmp_path / "job"))

    assert len(copied) == 5
    assert job_folders(tmp_path / "job") == []
