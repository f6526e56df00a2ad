"""Whether nodes can see a folder, told by its file system."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from launch.checkup import shared
from launch.checkup.shared import check_shared, file_system

MOUNTS = (
    "/dev/sda / ext4 rw 0 0\n"
    "server:/home /home nfs4 rw 0 0\n"
    "tmpfs /home/me/my\\040ram tmpfs rw 0 0\n"
    "lustre /scratch autofs rw 0 0\n"
    "lustre /scratch lustre rw 0 0\n"
)
ELSEWHERE = {"node1", "node2"}


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/opt/x", "ext4"),
        ("/home/me", "nfs4"),
        ("/homes", "ext4"),
        ("/home/me/my ram/x", "tmpfs"),
        ("/scratch/me", "lustre"),
    ],
)
def test_file_system_is_that_of_the_last_and_longest_mount(folder: str, kind: str) -> None:
    assert file_system(Path(folder), MOUNTS) == kind


@pytest.mark.parametrize(
    ("kinds", "state", "found"),
    [
        (("nfs4", "lustre"), "ok", "Python on nfs4, runs on lustre"),
        (("nfs4", "ext4"), "note", "on disks of this machine: runs on ext4"),
        (("tmpfs", "ext4"), "would fail", "only this machine has Python (/a)"),
    ],
)
def test_disk_of_one_machine_is_told(
    kinds: tuple[str, str], state: str, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = {"Python": Path("/a"), "runs": Path("/b")}
    by_folder = dict(zip(folders.values(), kinds, strict=True))
    monkeypatch.setattr(shared, "file_system", lambda folder, _: by_folder[folder])

    finding = check_shared(folders, ELSEWHERE)

    assert (finding.state, finding.name) == (state, "shared disk")
    assert finding.found.startswith(found)
    assert bool(finding.fix) == (state != "ok")


def test_nodes_on_this_machine_see_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "file_system", lambda *_: "tmpfs")

    finding = check_shared({"Python": Path("/a")}, {f"{socket.gethostname()}.cluster"})

    assert finding.state == "ok"
