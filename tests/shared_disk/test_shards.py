"""A shard on a disk that fails: who opens it is told in words, and does not die of a signal."""

from __future__ import annotations

import multiprocessing
import shutil
from pathlib import Path

from instruct_core.data.shards import ShardSet
from instruct_core.storage.store import Store
from tests.shared_disk.faults import READ, Fault
from tests.shared_disk.mount import SharedDisk, needs_fuse

pytestmark = needs_fuse


def test_page_that_the_disk_does_not_give_at_first_is_asked_for_again_and_kills_nobody(
    disk: SharedDisk, shard_set: Path
) -> None:
    store = Store(shutil.copytree(shard_set, disk.path / "set"))
    rows = ShardSet(store, "train")
    disk.plan([Fault("EIO", READ, "*.safetensors", seconds=0.5)])

    launcher = multiprocessing.get_context("fork").Process(target=rows.lengths)  # a signal kills it
    launcher.start()
    launcher.join(60)

    assert launcher.exitcode == 0
    assert disk.counts()["EIO"]["faults"] == 1
