"""Ranks in an image, by a real apptainer, where there is one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.slurm.conftest import Run, assert_ended_as_if_undisturbed

pytestmark = pytest.mark.skipif(
    shutil.which("apptainer") is None, reason="needs apptainer, which Debian has in sid alone"
)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """An image that is a folder; its programs are this machine's."""
    root = tmp_path / "image"
    for name in ("dev", "etc", "proc", "root", "sys", "tmp", "usr", "var/tmp"):
        (root / name).mkdir(parents=True)
    for place in Path("/").iterdir():
        if place.is_symlink() and place.readlink().parts[0] == "usr":
            (root / place.name).symlink_to(place.readlink())
    (root / "this-is-the-image").touch()
    return root


def test_ranks_train_in_an_image_and_are_warned_and_come_back_in_it(
    pair: Run, undisturbed_pair: Run, image: Path
) -> None:
    pair.submit(f"--container={image}", "--setup=export APPTAINER_BIND=/usr")
    for start in (1, 2):
        pair.wait_for_start(start)
        with pair.held_at(7):
            for pid in pair.pids():
                assert Path(f"/proc/{pid}/root/this-is-the-image").exists()
            if start == 1:
                pair.cluster.run("scancel", "--signal=USR2", pair.job_id)

    pair.wait_for_end()

    assert [event["signal"] for event in pair.events("warned")] == ["SIGUSR2"]
    assert pair.events("resumed")[1]["step"] == pair.events("warned")[0]["step"]
    assert_ended_as_if_undisturbed(pair, undisturbed_pair)
