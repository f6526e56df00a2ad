"""
The newest checkpoint of a run whose every byte is right, on every rank.

    loaded = load_newest(checkpoints, on_damaged=print)

A damaged one is named and set aside, and the one before it is tried; a run that has ever saved and
has none that can be loaded stops. What cannot be read is not damaged: that is raised, and so is what
one rank reads otherwise than rank 0 does. From a disk every rank reads for itself: a node keeps the
file in its memory after the first. From an object store each file is read by one rank and handed on.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from time import sleep
from typing import NamedTuple

import torch
from torch import Tensor

from instruct_core import ranks
from instruct_core.checkpoints.manifest import Manifest, manifest_from, state_name
from instruct_core.checkpoints.removal import put_back, set_aside
from instruct_core.checkpoints.steps import (
    DAMAGED_FOLDER,
    LOOK_AGAIN_SECONDS,
    committed_newest_first,
    folder_of,
    look_again,
    mark_committed,
    read_manifest,
    read_verified,
    saved_in,
    step_name,
)
from instruct_core.checkpoints.writer import Checkpoints
from instruct_core.errors import CorruptFileError, FencedError, MissingError, NoCheckpointError
from instruct_core.storage.store import Store
from instruct_core.storage.tensor_file import aligned_buffer
from instruct_core.storage.torch_tensors import tensors_of


class Loaded(NamedTuple):
    """A verified checkpoint as one rank sees it."""

    step: int
    manifest: Manifest
    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    rng: dict[str, Tensor] | None  # None for a rank that the saved run did not have


def load_newest(
    checkpoints: Checkpoints,
    on_damaged: Callable[[str], None] = lambda message: None,
    on_foreign: Callable[[str], None] = lambda message: None,
) -> Loaded | None:
    """
    Return the newest checkpoint that verifies on all ranks, or None for a run without any.

    Args:
        checkpoints: Of the run.
        on_damaged: Told of every checkpoint that is set aside, on rank 0.
        on_foreign: Told of files that another user owns and others may write, on rank 0.

    Raises:
        NoCheckpointError: The run has committed a step before, and none can be loaded.
        FencedError: One is damaged, and a newer attempt has begun: it is that one's to judge.
        OSError: One cannot be read now, or this rank reads something else than rank 0: another try,
            perhaps on another node, may do better.
    """
    store = checkpoints.store
    if ranks.rank() == 0:
        store.forget_listings()
        put_back(store)
    found = committed_newest_first(store) if ranks.rank() == 0 else iter(())
    # One rank lists: listings may differ.
    while (saved := ranks.value_of_rank_0(next(found, None))) is not None:
        step, folder = saved
        loaded, problem = _load(store, step, folder)
        if loaded is not None:
            checkpoints.adopt(step, folder, loaded.manifest.files)
            _warn_of_others(store, folder, on_foreign)
            return loaded
        _set_aside(checkpoints, step, folder, problem, on_damaged)
    if store.exists("committed.json"):
        raise NoCheckpointError(
            f"Run {store.url} has saved checkpoints before, and none of them can be loaded now"
            f"{_set_aside_there(store)}. It does not start over by itself: restore its step folders, or "
            "begin again under another --run."
        )
    return None


def _set_aside(
    checkpoints: Checkpoints,
    step: int,
    folder: str,
    problem: str,
    on_damaged: Callable[[str], None],
) -> None:
    """Set a damaged checkpoint aside, on rank 0; raises FencedError on all ranks."""
    store, fenced = checkpoints.store, ""
    if problem and ranks.rank() == 0:
        mark_committed(store, step)
        try:
            aside = set_aside(store, step, checkpoints.attempt, folder)
            on_damaged(f"{problem} Set aside as {store.where(aside)}.")
        except FencedError as error:
            fenced = str(error)
    if fenced := ranks.value_of_rank_0(fenced):
        raise FencedError(fenced)


def load_step(store: Store, step: int) -> Loaded:
    """
    Return a step of another run, on every rank.

    Raises:
        MissingError: It is not there any more.
        CorruptFileError: It is damaged; it stays where it is, for its own run to judge.
        OSError: It cannot be read now.
    """
    folder = ranks.value_of_rank_0(folder_of(store, step) if ranks.rank() == 0 else None)
    loaded, problem = _load(store, step, folder)
    if problem:
        raise CorruptFileError(problem)
    if loaded is None:
        raise MissingError(f"Checkpoint {store.where(step_name(step))} is not there any more.")
    return loaded


def _confirmed(store: Store, step: int, folder: str) -> str:
    """Return on all ranks what rank 0 finds wrong with a checkpoint at a second look; "" for nothing."""
    said, failed = "", None
    if ranks.rank() == 0:
        try:
            said = look_again(store, step, folder)
        except OSError as error:
            failed = f"Checkpoint {store.where(folder)} cannot be read: {error}"
    said, failed = ranks.value_of_rank_0((said, failed))
    if failed is not None:
        raise OSError(errno.EIO, failed)
    return str(said)


def _set_aside_there(store: Store) -> str:
    """Return a note about what was set aside; "" where nothing was."""
    aside = [name for name in store.names() if DAMAGED_FOLDER.match(name)]
    return f" ({', '.join(aside)} were found damaged and set aside)" if aside else ""


class _Tried(NamedTuple):
    """What came of loading a step; no problem and nothing loaded where it is gone."""

    loaded: Loaded | None
    problems: list[str]  # of each rank
    is_certain: bool = False  # every byte is as the manifest says, and makes no checkpoint

    @property
    def is_gone(self) -> bool:
        return self.loaded is None and not any(self.problems)


def _is_listed(store: Store, step: int, folder: str) -> bool:
    """Tell on all ranks whether a checkpoint that was not found is named by the store all the same."""
    listed = False
    if ranks.rank() == 0:
        store.forget_listings()
        if listed := saved_in(store, step) == folder:
            sleep(LOOK_AGAIN_SECONDS)  # one look is no verdict
    return bool(ranks.value_of_rank_0(listed))


def _load(store: Store, step: int, folder: str) -> tuple[Loaded | None, str]:
    """Return a checkpoint, or what is wrong with it for certain; neither for one that is gone."""
    tried = _try(store, step, folder)
    if tried.is_gone and _is_listed(store, step, folder):
        tried = _try(store, step, folder)
        if tried.is_gone and _is_listed(store, step, folder):
            raise OSError(
                errno.EIO, f"Checkpoint {store.where(folder)} is listed, and cannot be found"
            )
    if not any(tried.problems):
        return tried.loaded, ""
    if tried.is_certain:
        return None, next(filter(None, tried.problems))
    if confirmed := _confirmed(store, step, folder):
        return None, confirmed
    tried = _try(store, step, folder)  # perhaps it was only what a node had kept in its memory
    if mine := tried.problems[ranks.rank()]:
        raise OSError(errno.EIO, f"{mine} Rank 0 reads what was written: this node does not")
    if any(tried.problems):
        ranks.barrier()  # ends with the ranks that raise, whose nodes are to blame
    return tried.loaded, ""


def _try(store: Store, step: int, folder: str) -> _Tried:
    document, problem = None, ""
    if ranks.rank() == 0:
        try:
            document = read_manifest(store, step, folder).document
        except FileNotFoundError:  # removed since it was listed
            problem = ""
        except CorruptFileError as error:
            problem = str(error)
    document, problem = ranks.value_of_rank_0((document, problem))
    if document is None:
        return _Tried(None, [problem] + [""] * (ranks.world_size() - 1))
    manifest = manifest_from(document, f"Manifest of step {step} as rank 0 has sent it")
    files: dict[str, Tensor] = {}
    try:
        files = _read_own(store / folder, manifest)
    except (CorruptFileError, FileNotFoundError) as error:
        problem = str(error)
    problems = ranks.gather_from_ranks(problem)
    if any(problems):
        return _Tried(None, problems)
    loaded = None
    try:
        loaded = _assemble(store / folder, manifest, _shared(manifest, files, store))
    except CorruptFileError as error:
        problem = str(error)
    problems = ranks.gather_from_ranks(problem)
    return _Tried(None if any(problems) else loaded, problems, is_certain=True)


def _owners(manifest: Manifest, is_local: bool) -> dict[str, int | None]:
    """Return which rank reads each file; None for all of them."""
    loads = [0] * ranks.world_size()
    owners: dict[str, int | None] = {}
    for entry in sorted(manifest.files, key=lambda e: (-e.bytes, e.file)):
        lightest = loads.index(min(loads))
        loads[lightest] += entry.bytes
        owners[entry.file] = None if is_local else lightest
    return owners


def _read_own(folder: Store, manifest: Manifest) -> dict[str, Tensor]:
    """Return the bytes of the files that this rank reads."""
    owners = _owners(manifest, folder.is_local)
    return {
        entry.file: torch.from_numpy(read_verified(folder, entry))
        for entry in manifest.files
        if owners[entry.file] in (None, ranks.rank())
    }


def _shared(manifest: Manifest, files: dict[str, Tensor], store: Store) -> dict[str, Tensor]:
    """Return the bytes of all files: what this rank has not read, another one hands on."""
    owners = _owners(manifest, store.is_local)
    for entry in manifest.files:
        owner = owners[entry.file]
        if owner is not None:
            if owner != ranks.rank():
                files[entry.file] = torch.from_numpy(aligned_buffer(entry.bytes))
            ranks.broadcast(files[entry.file], owner)
    return files


def _assemble(folder: Store, manifest: Manifest, files: Mapping[str, Tensor]) -> Loaded:
    def tensors(name: str) -> dict[str, Tensor]:
        return tensors_of(files[name], folder.where(name))

    optimizer: dict[str, Tensor] = {}
    rng: dict[str, Tensor] | None = None
    for rank in range(manifest.world_size):
        state = tensors(state_name(rank, manifest.world_size))
        optimizer |= _below("optimizer/", state)
        if rank == ranks.rank():
            rng = _below("rng/", state)
    step = manifest.global_step
    return Loaded(step, manifest, tensors(manifest.weights_file), optimizer, rng)


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def _warn_of_others(store: Store, folder: str, on_foreign: Callable[[str], None]) -> None:
    if ranks.rank() == 0 and (names := store.writable_by_others(folder)):
        on_foreign(
            f"{', '.join(store.where(name) for name in names[:3])} belongs to another user, and "
            "others may write it: whoever can, decides what this run goes on with."
        )
