"""
A run whose everything lies on a shared disk that fails for a while: shards, checkpoints, books, code.

The launcher, the ranks and what brings them back all meet the faults. A person gives the command
again where it ends; the last checkpoint has the bits of a run that nobody disturbed.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.shared_disk.faults import OF_JOBS, drawn
from tests.shared_disk.mount import SharedDisk, needs_fuse
from tests.shared_disk.runs import FLAGS, Course, train_through
from tests.tiny_runs import final_hashes, train

pytestmark = needs_fuse


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, light_shards: Path) -> dict[str, str]:
    cwd = tmp_path_factory.mktemp("undisturbed")
    train(cwd, light_shards, 2, *FLAGS)
    return final_hashes(cwd)


def test_run_of_two_ranks_ends_with_the_same_bits_on_a_disk_that_fails_again_and_again(
    tmp_path: Path, light_shards: Path, undisturbed: dict[str, str]
) -> None:
    with SharedDisk(tmp_path / "folder", tmp_path / "one") as disk:
        faults = drawn(seed=2, count=60, apart=300, seconds=0.3, quota_of=OF_JOBS)
        cwd, commands = train_through(disk, light_shards, "project", faults)
        course, counts = Course.of(cwd), disk.counts()
        print(commands, course, counts)

        assert final_hashes(cwd) == undisturbed
        assert (course.lost, course.condemned, course.damaged) == (0, 0, 0)
        # A busy machine polls more, and meets more of them.
        assert sum(kind["faults"] for kind in counts.values()) >= 5


def test_run_is_launched_and_trained_on_a_disk_without_flock(
    tmp_path: Path, light_shards: Path
) -> None:
    with SharedDisk(tmp_path / "folder", tmp_path / "one", no_locks=True) as disk:
        train(disk.path / "project", light_shards, 1, "--max-steps=2", "--decay-steps=2", *FLAGS)

        assert disk.counts()["no flock"]["refused"] > 0
