"""A job's code on a shared disk that fails while Python reads it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import HANGS_SECONDS, REPO
from tests.shared_disk.faults import READ, Fault, Kind
from tests.shared_disk.mount import SharedDisk, needs_fuse

pytestmark = needs_fuse

MUCH = """
import sys
import jobs.survival.comeback, jobs.survival.local_controller, jobs.survival.rank, jobs.finetune

def main():
    for name, module in sys.modules.items():
        if name.startswith(("jobs.", "instruct_core.")):
            print(module.__file__)
"""


@pytest.mark.parametrize("kind", ["EIO", "ESTALE"])
def test_what_begins_reads_its_code_from_a_disk_that_fails_again_and_again(
    kind: Kind, tmp_path: Path
) -> None:
    with SharedDisk(tmp_path / "folder", tmp_path / "one") as disk:
        code = disk.folder / "code"
        for package in ("jobs", "instruct_core"):
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(REPO / package, code / package, ignore=ignored)
        (code / "jobs" / "much.py").write_text(MUCH)
        # Not jobs/patient.py itself.
        disk.plan([Fault(kind, operations, "/code/*/*/*.py", after=20, times=3)
                   for operations in (READ, ("look",)) * 4])  # fmt: skip

        done = subprocess.run(
            [sys.executable, "-m", "jobs.patient", "jobs.much"], capture_output=True, text=True,
            env=os.environ | {"PYTHONPATH": str(disk.path / "code"), "PYTHONSAFEPATH": "1"},
            cwd=tmp_path, timeout=HANGS_SECONDS, check=False,
        )  # fmt: skip

        assert done.returncode == 0, done.stderr
        places = [Path(line) for line in done.stdout.splitlines()]
        assert disk.path / "code" / "jobs" / "finetune.py" in places
        # Not that of the project as it is installed, where a folder could not be looked at.
        assert all(place.is_relative_to(disk.path / "code") for place in places)
        assert disk.counts()[kind]["faults"] >= 4
