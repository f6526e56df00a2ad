"""A run whose disk fills up on the way."""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path

import pytest

from instruct_core.checkpoints.steps import committed_steps, damage_of
from instruct_core.storage.store import Store
from tests.conftest import HANGS_SECONDS, events_of, start, wait_for
from tests.test_object_store import arguments


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small file system")
def test_disk_that_fills_up_keeps_the_run_alive(tmp_path: Path, shard_set: Path) -> None:
    """20 MB a checkpoint on a disk of 90: it prunes, then waits for room, says so, and ends well."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=90m", "tmpfs", str(disk)]
    subprocess.run(mount, check=True)
    try:
        launcher = start(
            "finetune",
            *arguments(shard_set, str(disk / "c"), "--keep-checkpoints=9", "--save-every=2"),
            "--max-steps=60",
            cwd=tmp_path,
        )
        run, store = tmp_path / "runs_instruct" / "r", Store(disk / "c" / "r")

        def seen(event: str, text: str = "") -> int:
            return sum(entry["event"] == event and text in str(entry) for entry in events_of(run))

        def is_refused_while_others_fill_the_disk() -> bool:
            with contextlib.suppress(OSError), (disk / "other").open("ab", buffering=0) as other:
                while True:  # also what a save has just freed
                    other.write(bytes(1 << 20))
            return seen("save_failed", "no space for") > 0

        wait_for(lambda: seen("made_room"), "pruning")
        wait_for(is_refused_while_others_fill_the_disk, "a save that found no room")
        (disk / "other").unlink()
        said, errors = launcher.communicate(timeout=HANGS_SECONDS)
        saved = {step: damage_of(store, step) for step in committed_steps(store)}
    finally:
        launcher.kill()
        subprocess.run(["umount", "-l", str(disk)], check=True)

    assert launcher.returncode == 0, said + errors
    assert "The disk is nearly full: older checkpoints were removed" in said
    assert "no space for " in said
    assert "training goes on" in said
    assert events_of(run)[-1]["event"] == "finished"
    assert seen("started") == 1
    assert max(saved) == 60
    assert not any(saved.values()), "what looks like a checkpoint is one"
