"""
A run on Slurm whose everything lies on a shared disk that fails again and again, and that is hit beside.

The ranks, the batch script and what brings the job back all meet the faults, at drawn moments; the disk
itself is looked at past the mount. It ends with the bits of a run that nobody disturbed.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import wait_for
from tests.shared_disk.faults import OF_JOBS, drawn
from tests.shared_disk.mount import SharedDisk, needs_fuse
from tests.shared_disk.runs import Course
from tests.slurm.conftest import STEPS, Cluster, Run, assert_ended_as_if_undisturbed

SCRATCH = re.compile(r"\..+\.tmp")

pytestmark = needs_fuse


class RunOnDisk(Run):
    """A run in a folder of a mounted disk, looked at in the folder that the disk shows."""

    seen: Path

    @property
    def folder(self) -> Path:
        return self.seen / "runs_instruct" / self.name

    @property
    def checkpoints(self) -> Path:
        return self.seen / "checkpoints_instruct" / self.name

    def hashes(self, step: int = STEPS) -> dict[str, str]:
        """Of what counts: a disk that fails may keep the name that a file was written under."""
        found = super().hashes(step).items()
        return {name: digest for name, digest in found if not SCRATCH.fullmatch(name)}


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that the nodes see too."""
    folder = Path(tempfile.mkdtemp(prefix="disk"))
    yield folder
    shutil.rmtree(folder)


def test_run_that_is_warned_and_killed_while_its_disk_fails_loses_nothing(
    other_cluster: Cluster, place: Path, light_shards: Path, undisturbed_pair: Run
) -> None:
    with SharedDisk(place / "folder", place / "one") as disk:
        cluster = other_cluster(num_nodes=2)  # its nodes have the mounts that there are now
        desk = disk.path / "desk"
        desk.mkdir()
        shards = Path(shutil.copytree(light_shards, desk / "shards"))
        run = RunOnDisk(cluster, desk, shards, "--gpus=1")
        run.seen = disk.folder / "desk"
        run.submit()
        disk.plan(drawn(seed=11, count=400, apart=900, seconds=1.0, quota_of=OF_JOBS))
        with run.held_at(7):
            cluster.run("scancel", "--signal=USR2", run.job_id)
        run.wait_for_start(2)
        with run.held_at(14):
            os.kill(run.pids()[1], signal.SIGKILL)

        wait_for(lambda: run.events("finished"), "the last step")
        disk.heal()
        run.wait_for_end()
        course = Course.of(run.seen)
        assert (course.lost, course.condemned, course.damaged) == (0, 0, 0)
        assert sum(kind["faults"] for kind in disk.counts().values()) >= 5
        assert_ended_as_if_undisturbed(run, undisturbed_pair)
