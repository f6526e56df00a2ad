"""
Step folders for those who look at a run without loading it. No torch.

    committed_steps(Store("checkpoints_instruct/my-run"))     # [100, 200, 300]
    damage_of(store, 300)                                     # "" where every byte is right
    folder_of(store, 300)                                     # where its files lie

    on a disk           step-00000300/manifest.json
    in an object store  step-00000300/attempt-0003-save-0001/manifest.json

A folder of a disk is taken away in one piece. Objects go one by one, without a condition, and a request
that is held up may arrive when somebody newer has written the same name: so there each save has a
folder of its own in its step's, whose name nobody else ever writes. Of several that were committed the
newest one counts. Who reads finds either form on either place: a run may have been copied.
"""

from __future__ import annotations

import contextlib
import json
import re
import uuid
from collections.abc import Iterable, Iterator
from time import sleep
from typing import TYPE_CHECKING

from instruct_core.checkpoints.manifest import FileEntry, Manifest, manifest_in
from instruct_core.errors import ConfigError, CorruptFileError
from instruct_core.storage.store import Store

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

STEP_FOLDER = re.compile(r"step-(\d{8})")
SAVE_FOLDER = re.compile(r"attempt-(\d{4,})-save-(\d{4,})")
MANIFEST = re.compile(rf"({STEP_FOLDER.pattern}(?:/{SAVE_FOLDER.pattern})?)/manifest\.json")
DAMAGED_FOLDER = re.compile(r"damaged-step-\d{8}-attempt-\d{4,}")
# Of a disk that stay free at a save: the ledger and the logs go on.
SPARE_BYTES, SPARE_FILES = 16 << 20, 100
LOOK_AGAIN_SECONDS = 2.0


def step_name(step: int) -> str:
    """Return the folder name of a step."""
    return f"step-{step:08d}"


def new_folder(store: Store, step: int, attempt: int, save: int) -> str:
    """
    Return the name of a folder for a save of a step, below the run's.

    Args:
        store: The run's folder.
        step: That is saved.
        attempt: Ours.
        save: Its number among all that this attempt has begun.
    """
    folder = step_name(step)
    return folder if store.is_local else f"{folder}/attempt-{attempt:04d}-save-{save:04d}"


def age_of(name: str) -> tuple[int, int]:
    """Return attempt and save of a folder in a step's; (-1, 0) for a file of older versions there."""
    match = SAVE_FOLDER.fullmatch(name)
    return (int(match[1]), int(match[2])) if match else (-1, 0)


def saved_folders(files: Iterable[str]) -> dict[int, str]:
    """Return by committed step, oldest first, the folder of the save that counts; given file names."""
    found = [match for match in map(MANIFEST.fullmatch, files) if match]
    found.sort(key=lambda match: (int(match[2]), int(match[3] or -1), int(match[4] or 0)))
    return {int(match[2]): match[1] for match in found}


def saved_in(store: Store, step: int) -> str | None:
    """Return the folder, below the run's, of the save of a step that counts; None for a step without."""
    folder = step_name(step)
    if not store.is_local:
        tree = (store / folder).tree()
        listed = saved_folders(f"{folder}/{name}" for name in tree).get(step)
        # A listing may be older than what it lists, and what is asked by its name is not.
        age = age_of((listed or "").rpartition("/")[2])
        newer = {save for save in (name.partition("/")[0] for name in tree) if age_of(save) > age}
        found = (f"{folder}/{save}" for save in sorted(newer, key=age_of, reverse=True))
        return next((save for save in found if store.exists(f"{save}/manifest.json")), listed)
    # Listed, for NFS remembers a name that was not there; and not as a tree, which asks for sizes.
    names = store.names(folder)
    for save in filter(SAVE_FOLDER.fullmatch, names):
        names += [f"{save}/{name}" for name in store.names(f"{folder}/{save}")]
    return saved_folders(f"{folder}/{name}" for name in names).get(step)


def folder_of(store: Store, step: int) -> str:
    """Return the folder, below the run's, in which a step's files lie."""
    return saved_in(store, step) or step_name(step)


def opened(place: str) -> Store:
    """
    Return the folder of a model: of a step folder the one of its save that counts.

    Raises:
        ConfigError: It is the folder of one save.
    """
    above, _, name = place.rstrip("/").rpartition("/")
    if SAVE_FOLDER.fullmatch(name) and STEP_FOLDER.fullmatch(above.rpartition("/")[2]):
        raise ConfigError(f"Model {place} is one save of a step. Name the step: {above}")
    if match := STEP_FOLDER.fullmatch(name):
        run = Store(above or ("/" if place.startswith("/") else "."))
        return run / folder_of(run, int(match[1]))
    return Store(place)


def committed_steps(store: Store) -> list[int]:
    """Return the steps that have a manifest, oldest first. Their bytes are not verified."""
    return [step for step, is_committed in steps_of(store).items() if is_committed]


def steps_of(store: Store) -> dict[int, bool]:
    """Return the steps that have a folder, oldest first, and whether each has a manifest."""
    if store.is_local:  # as a tree it would be asked for the size of every file
        return {step: saved_in(store, step) is not None for step in step_folders(store)}
    tree = store.tree()
    matches = [STEP_FOLDER.fullmatch(name.partition("/")[0]) for name in tree]
    steps, saved = sorted({int(match[1]) for match in matches if match}), saved_folders(tree)
    return {step: step in saved for step in steps}


def step_folders(store: Store) -> list[int]:
    """Return the steps that have a folder, oldest first: one listing, however many files they have."""
    matches = [STEP_FOLDER.fullmatch(name) for name in store.names()]
    return sorted(int(match[1]) for match in matches if match)


def committed_newest_first(store: Store) -> Iterator[tuple[int, str]]:
    """
    Yield the steps that have a manifest, and where their files lie, below the run's folder.

    Looks at no more folders than are asked for. An older save of a step follows one that was taken away.
    """
    for step in reversed(step_folders(store)):
        tried = None
        while (folder := saved_in(store, step)) not in (None, tried):
            yield step, folder
            tried = folder


def newest_committed_step(store: Store) -> int | None:
    """Return the newest step that has a manifest, asked in few looks; None where there is none."""
    return next((step for step, _ in committed_newest_first(store)), None)


def read_manifest(store: Store, step: int, folder: str = "") -> Manifest:
    """
    Return a checkpoint's manifest.

    Args:
        store: The run's folder.
        step: Of the checkpoint.
        folder: Where its files lie, where that is known.

    Raises:
        FileNotFoundError: There is none.
        CorruptFileError: It is not one of ours, or that of another step.
    """
    return manifest_in(store / (folder or folder_of(store, step)), step)


def read_verified(folder: Store, entry: FileEntry) -> NDArray[np.uint8]:
    """
    Return a file's bytes after comparing them with its manifest entry.

    Raises:
        CorruptFileError: It is gone, or is not what was written.
        OSError: Nobody can tell: it cannot be read now.
    """
    from instruct_core.storage.tensor_file import aligned_buffer  # here: a look needs no numpy

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


def damage_of(store: Store, step: int, every_byte: bool = True, folder: str = "") -> str:
    """
    Return what is wrong with a checkpoint, in one sentence; "" where nothing is.

    Args:
        store: The run's folder.
        step: Of the checkpoint.
        every_byte: Read all files and compare hashes, instead of sizes alone.
        folder: Where its files lie, where that is known.

    Raises:
        OSError: Nobody can tell: it cannot be read now.
    """
    files = store / (folder or folder_of(store, step))
    try:
        manifest = manifest_in(files, step)
        sizes = files.sizes()
        for entry in manifest.files:
            where = f"Checkpoint {files.where(entry.file)}"
            if entry.file not in sizes:
                return f"{where} is gone, though the manifest names it."
            if (size := sizes[entry.file]) != entry.bytes:
                return f"{where} is corrupt: it has {size} bytes, expected {entry.bytes}."
            if every_byte and files.digest(entry.file) != entry.xxh3:
                return f"{where} is corrupt: xxh3 differs from the manifest."
    except (CorruptFileError, FileNotFoundError) as error:
        return str(error)
    return ""


def is_saved_as(store: Store, step: int, folder: str, files: list[FileEntry]) -> bool:
    """
    Return True if a folder's manifest names these very bytes, and files of their sizes are there.

    Who hears False removes what is there, so where a manifest is, one look is no verdict.
    """
    if _is_saved_as(store, step, folder, files):
        return True
    if saved_in(store, step) != folder:
        return False
    _past_caches(store, folder)
    return _is_saved_as(store, step, folder, files)


def _is_saved_as(store: Store, step: int, folder: str, files: list[FileEntry]) -> bool:
    try:
        manifest = read_manifest(store, step, folder)
    except (CorruptFileError, FileNotFoundError):
        return False
    sizes = store.sizes(folder)
    return manifest.files == files and all(sizes.get(e.file) == e.bytes for e in files)


def look_again(store: Store, step: int, folder: str = "") -> str:
    """
    Return what is wrong with a checkpoint that was found damaged, after a pause and past all caches.

    One look is no verdict: a node may have kept an old size or a bad page. Raises as `damage_of` does.
    """
    folder = folder or folder_of(store, step)
    _past_caches(store, folder)
    return damage_of(store, step, folder=folder)


def _past_caches(store: Store, folder: str) -> None:
    """Wait a moment, and have the next look at a checkpoint be at what is there."""
    sleep(LOOK_AGAIN_SECONDS)
    store.forget_listings()
    with contextlib.suppress(FileNotFoundError, CorruptFileError):
        store.digest(f"{folder}/manifest.json")  # read from the disk, and remembered anew


def damage_seen_twice(store: Store, step: int, every_byte: bool = True, folder: str = "") -> str:
    """Return what is wrong with a checkpoint at two looks; arguments and errors as of `damage_of`."""
    folder = folder or folder_of(store, step)
    return damage_of(store, step, every_byte, folder) and look_again(store, step, folder)


def mark_committed(store: Store, step: int) -> None:
    """Note that the run has saved: from now on it never starts over by itself."""
    if not store.exists("committed.json"):
        first = {"first_step": step, "token": uuid.uuid4().hex}
        store.claim("committed.json", json.dumps(first).encode())
