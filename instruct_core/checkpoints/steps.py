"""
Step folders for those who look at a run without loading it. No torch.

    committed_steps(Store("checkpoints_instruct/my-run"))     # [100, 200, 300]
    damage_of(store, 300)                                     # "" where every byte is right
"""

from __future__ import annotations

import json
import re
import uuid
from time import sleep

import numpy as np
from numpy.typing import NDArray

from instruct_core.checkpoints.manifest import FileEntry, Manifest, manifest_in
from instruct_core.errors import CorruptFileError
from instruct_core.storage.store import Store
from instruct_core.storage.tensor_file import aligned_buffer

STEP_FOLDER = re.compile(r"step-(\d{8})")
DAMAGED_FOLDER = re.compile(r"damaged-step-\d{8}-attempt-\d{4,}")
# Of a disk that stay free at a save: the ledger and the logs go on.
SPARE_BYTES, SPARE_FILES = 16 << 20, 100
LOOK_AGAIN_SECONDS = 2.0


def step_name(step: int) -> str:
    """Return the folder name of a step."""
    return f"step-{step:08d}"


def committed_steps(store: Store) -> list[int]:
    """Return the steps that have a manifest, oldest first. Their bytes are not verified."""
    return [step for step, is_committed in steps_of(store).items() if is_committed]


def steps_of(store: Store) -> dict[int, bool]:
    """Return the steps that have a folder, oldest first, and whether each has a manifest."""
    tree = store.tree()
    matches = [STEP_FOLDER.fullmatch(name.partition("/")[0]) for name in tree]
    steps = sorted({int(match[1]) for match in matches if match})
    return {step: f"{step_name(step)}/manifest.json" in tree for step in steps}


def read_manifest(store: Store, step: int) -> Manifest:
    """
    Return a checkpoint's manifest.

    Raises:
        FileNotFoundError: There is none.
        CorruptFileError: It is not one of ours, or that of another step.
    """
    return manifest_in(store / step_name(step), step)


def read_verified(folder: Store, entry: FileEntry) -> NDArray[np.uint8]:
    """
    Return a file's bytes after comparing them with its manifest entry.

    Raises:
        CorruptFileError: It is gone, or is not what was written.
        OSError: Nobody can tell: it cannot be read now.
    """
    where = f"Checkpoint {folder.where(entry.file)}"
    try:
        size = folder.size_bytes(entry.file)
        if size != entry.bytes:
            raise CorruptFileError(
                f"{where} is corrupt: it has {size} bytes, expected {entry.bytes}."
            )
        buffer = aligned_buffer(size)
        digest = folder.read_hashed(entry.file, buffer)
    except FileNotFoundError:
        raise CorruptFileError(f"{where} is gone, though the manifest names it.") from None
    if digest != entry.xxh3:
        raise CorruptFileError(f"{where} is corrupt: xxh3 differs from the manifest.")
    return buffer


def damage_of(store: Store, step: int, every_byte: bool = True) -> str:
    """
    Return what is wrong with a checkpoint, in one sentence; "" where nothing is.

    Args:
        store: The run's folder.
        step: Of the checkpoint.
        every_byte: Read all files and compare hashes, instead of sizes alone.

    Raises:
        OSError: Nobody can tell: it cannot be read now.
    """
    folder = store / step_name(step)
    try:
        manifest = read_manifest(store, step)
        sizes = folder.sizes()
        for entry in manifest.files:
            where = f"Checkpoint {folder.where(entry.file)}"
            if entry.file not in sizes:
                return f"{where} is gone, though the manifest names it."
            if (size := sizes[entry.file]) != entry.bytes:
                return f"{where} is corrupt: it has {size} bytes, expected {entry.bytes}."
            if every_byte and folder.digest(entry.file) != entry.xxh3:
                return f"{where} is corrupt: xxh3 differs from the manifest."
    except (CorruptFileError, FileNotFoundError) as error:
        return str(error)
    return ""


def look_again(store: Store, step: int) -> str:
    """
    Return what is wrong with a checkpoint that was found damaged, after a pause and past all caches.

    One look is no verdict: a node may have kept an old size or a bad page. Raises as `damage_of` does.
    """
    sleep(LOOK_AGAIN_SECONDS)
    store.forget_listings()
    return damage_of(store, step)


def mark_committed(store: Store, step: int) -> None:
    """Note that the run has saved: from now on it never starts over by itself."""
    if not store.exists("committed.json"):
        first = {"first_step": step, "token": uuid.uuid4().hex}
        store.claim("committed.json", json.dumps(first).encode())


def remove_step(store: Store, step: int) -> None:
    """Remove a checkpoint, manifest first: half of it must never pass for a whole one."""
    store.remove(f"{step_name(step)}/manifest.json")
    store.remove(step_name(step))


def set_aside(store: Store, step: int, attempt: int) -> str:
    """Give a damaged checkpoint a name under which it is no checkpoint, and return the name."""
    aside = f"damaged-{step_name(step)}-attempt-{max(attempt, 0):04d}"
    while store.exists(aside):
        aside += "-again"
    store.move(step_name(step), aside)
    return aside
