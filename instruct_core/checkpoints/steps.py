"""
Step folders for those who look at a run without loading it. No torch.

    committed_steps(Store("checkpoints_instruct/my-run"))     # [100, 200, 300]
    damage_of(store, 300)                                     # "" where every byte is right

Who removes what was left of a step may have been overtaken since it looked, and a newer attempt may
have written the same step: on a disk a folder is taken away in one piece, and goes for good only if
nobody newer has begun by then.
"""

from __future__ import annotations

import contextlib
import json
import re
import uuid
from collections.abc import Iterator
from time import sleep

import numpy as np
from numpy.typing import NDArray

from instruct_core.checkpoints.manifest import FileEntry, Manifest, manifest_in
from instruct_core.errors import CorruptFileError, FencedError
from instruct_core.storage.store import Store
from instruct_core.storage.tensor_file import aligned_buffer

STEP_FOLDER = re.compile(r"step-(\d{8})")
LEFT_FOLDER = re.compile(r"left-step-\d{8}-attempt-\d{4,}")
ATTEMPT_FILE = re.compile(r"(\d{4,})\.json")
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


def step_folders(store: Store) -> list[int]:
    """Return the steps that have a folder, oldest first: one listing, however many files they have."""
    matches = [STEP_FOLDER.fullmatch(name) for name in store.names()]
    return sorted(int(match[1]) for match in matches if match)


def is_committed(store: Store, step: int) -> bool:
    """Return True if a step has a manifest; listed, for NFS remembers a name that was not there."""
    return "manifest.json" in store.names(step_name(step))


def committed_newest_first(store: Store) -> Iterator[int]:
    """Yield the steps that have a manifest; looks at no more folders than are asked for."""
    return (step for step in reversed(step_folders(store)) if is_committed(store, step))


def newest_committed_step(store: Store) -> int | None:
    """Return the newest step that has a manifest, asked in few looks; None where there is none."""
    return next(committed_newest_first(store), None)


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


def is_saved_as(store: Store, step: int, files: list[FileEntry]) -> bool:
    """Return True if a step's manifest names these very bytes, and files of their sizes are there."""
    try:
        manifest = read_manifest(store, step)
    except (CorruptFileError, FileNotFoundError):
        return False
    sizes = store.sizes(step_name(step))
    return manifest.files == files and all(sizes.get(e.file) == e.bytes for e in files)


def look_again(store: Store, step: int) -> str:
    """
    Return what is wrong with a checkpoint that was found damaged, after a pause and past all caches.

    One look is no verdict: a node may have kept an old size or a bad page. Raises as `damage_of` does.
    """
    sleep(LOOK_AGAIN_SECONDS)
    store.forget_listings()
    with contextlib.suppress(FileNotFoundError, CorruptFileError):
        store.digest(f"{step_name(step)}/manifest.json")  # read from the disk, and remembered anew
    return damage_of(store, step)


def damage_seen_twice(store: Store, step: int, every_byte: bool = True) -> str:
    """Return what is wrong with a checkpoint at two looks; arguments and errors as of `damage_of`."""
    return damage_of(store, step, every_byte) and look_again(store, step)


def put_back(store: Store) -> None:
    """
    Put back what removals that were killed had taken away: whole checkpoints, each with its manifest.

    One whose step is there again goes.
    """
    for name in filter(LEFT_FOLDER.fullmatch, store.names()):
        if not store.exists(f"{name}/manifest.json"):
            continue  # retention removes it
        folder = name.removeprefix("left-").rpartition("-attempt-")[0]
        with contextlib.suppress(FileNotFoundError):  # whoever removes it is alive, and has gone on
            if store.exists(folder):
                store.remove(f"{name}/manifest.json")
            else:
                store.move(name, folder)


def mark_committed(store: Store, step: int) -> None:
    """Note that the run has saved: from now on it never starts over by itself."""
    if not store.exists("committed.json"):
        first = {"first_step": step, "token": uuid.uuid4().hex}
        store.claim("committed.json", json.dumps(first).encode())


def newest_attempt(store: Store) -> int:
    """Return the number of a run's newest attempt; -1 before there is one."""
    matches = [ATTEMPT_FILE.fullmatch(name) for name in store.names("attempts")]
    return max((int(match[1]) for match in matches if match), default=-1)


def check_fence(store: Store, attempt: int) -> None:
    """Raise FencedError if a newer attempt has begun."""
    if (newest := newest_attempt(store)) > attempt:
        raise FencedError(
            f"Run {store.url} belongs to attempt {newest} now; this is attempt {attempt}, which must "
            "not write any more."
        )


def clear_step(store: Store, step: int, attempt: int) -> None:
    """
    Remove what a save has left of a step, and nothing that a newer attempt has written.

    Args:
        store: The run's folder.
        step: Whose folder goes.
        attempt: Ours.

    Raises:
        FencedError: A newer attempt has begun: what may be its own is where it was.
    """
    folder = step_name(step)
    if not store.is_local:
        # Nothing can be taken away in one piece: only what was there before goes.
        names = store.names(folder)
        check_fence(store, attempt)
        for name in sorted(names, key=lambda name: name != "manifest.json"):
            store.remove(f"{folder}/{name}")
        return
    aside = f"left-{folder}-attempt-{attempt:04d}"
    store.remove(aside)
    try:
        store.move(folder, aside)
    except FileNotFoundError:  # nothing was left
        return
    except OSError:
        with contextlib.suppress(OSError):  # it was not moved, or its answer was lost
            store.move(aside, folder)
        raise
    _put_back_if_fenced(store, folder, aside, attempt)
    store.remove(f"{aside}/manifest.json")  # what still has one may have to go back
    store.remove(aside)


def set_aside(store: Store, step: int, attempt: int) -> str:
    """
    Give a damaged checkpoint a name under which it is no checkpoint, and return the name.

    Args:
        store: The run's folder.
        step: Of the checkpoint.
        attempt: Ours; -1 for somebody who is none.

    Raises:
        FencedError: A newer attempt has begun, and what is there now may be its own: it stays.
    """
    aside = f"damaged-{step_name(step)}-attempt-{max(attempt, 0):04d}"
    while store.exists(aside):
        aside += "-again"
    if attempt >= 0 and not store.is_local:  # nothing can be put back in one piece
        check_fence(store, attempt)
    store.move(step_name(step), aside)
    if attempt >= 0 and store.is_local:
        _put_back_if_fenced(store, step_name(step), aside, attempt)
    return aside


def _put_back_if_fenced(store: Store, folder: str, aside: str, attempt: int) -> None:
    """Put a folder back that was taken away, and raise, if nobody can say that it was ours to take."""
    try:
        check_fence(store, attempt)
    except (OSError, FencedError):
        with contextlib.suppress(OSError):  # a newer one has begun anew there
            store.move(aside, folder)
        raise
