"""
A mount of a disk with a will of its own, for a test.

    with SharedDisk(folder, mountpoint) as disk:
        disk.plan(drawn(seed=1, count=20))
        ...                                     # files below disk.path
        disk.heal()
        disk.counts()

Two of them of one folder are two nodes.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from ctypes.util import find_library
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import pytest

from tests.shared_disk.faults import Fault

READY_SECONDS = 30.0
REPO = Path(__file__).resolve().parent.parent.parent


def why_not() -> str:
    """Return why there can be no such disk here; "" where there can."""
    if os.geteuid() != 0 or not Path("/dev/fuse").exists():
        return "needs root and /dev/fuse"
    if find_library("fuse3") is None:
        return "needs libfuse: apt-get install libfuse3-3"
    return ""


needs_fuse = pytest.mark.skipif(bool(why_not()), reason=why_not())


class SharedDisk:
    """
    A folder, mounted once more with a will.

    Args:
        folder: Whose files it shows.
        path: Where it is mounted.
        late_seconds: How long it does not see what other mounts of the folder have made.
        no_locks: It has no flock.
        no_direct: It refuses O_DIRECT.
    """

    def __init__(
        self,
        folder: Path,
        path: Path,
        late_seconds: float = 0.0,
        no_locks: bool = False,
        no_direct: bool = False,
    ) -> None:
        self.path = path
        lacks = [*["no_locks"] * no_locks, *["no_direct"] * no_direct]
        self.folder, self._words = folder, [str(late_seconds), *lacks]
        self._scratch = Path(tempfile.mkdtemp(prefix="shared-disk-"))
        self._socket = self._scratch / "s"

    def __enter__(self) -> Self:
        for folder in (self.folder, self.path):
            folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "tests.shared_disk.file_system", str(self.folder)]
        with (self._scratch / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [*command, str(self.path), str(self._socket), *self._words],
                cwd=REPO, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        deadline = time.monotonic() + READY_SECONDS
        while not self.path.is_mount():
            assert self._process.poll() is None, (self._scratch / "log").read_text()
            assert time.monotonic() < deadline, "the disk was not mounted in time"
            time.sleep(0.02)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.heal()
        subprocess.run(["umount", "-l", str(self.path)], check=True)
        try:
            self._process.wait(READY_SECONDS)
        except subprocess.TimeoutExpired:  # somebody still has a file of it open
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
        shutil.rmtree(self._scratch)

    def plan(self, faults: Sequence[Fault]) -> None:
        """Have these happen, one after the other."""
        self._say(faults=[asdict(fault) for fault in faults])

    def heal(self) -> None:
        """Be an ordinary disk again."""
        self._say(heal=True)

    def counts(self) -> dict[str, dict[str, int]]:
        """Return by kind how many faults there were, and how many operations they met."""
        return dict(self._say()["counts"])

    def num_planned(self) -> int:
        """Return how many are still to come, or going on."""
        return int(self._say()["num_planned"])

    def _say(self, **words: Any) -> dict[str, Any]:
        with socket.socket(socket.AF_UNIX) as line:
            line.connect(str(self._socket))
            line.sendall(json.dumps(words).encode() + b"\n")
            with line.makefile() as answer:
                return dict(json.loads(answer.readline()))
