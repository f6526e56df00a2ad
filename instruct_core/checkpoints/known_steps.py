"""
What steps a run has, for its only writer: looked at once each, and remembered.

    known = KnownSteps(store)
    found = known.look()               # one listing of the run's folder, and a look at each new step
    known.val_losses(found.committed)  # read from the manifests that are new

A committed manifest never changes, so a save costs one listing of folders, whatever they hold; the first
one of an attempt looks at every step. On an object store it costs one of all objects, and no more looks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

from instruct_core.checkpoints.removal import LEFT_FOLDER
from instruct_core.checkpoints.steps import (
    STEP_FOLDER,
    age_of,
    read_manifest,
    saved_folders,
    saved_in,
    step_name,
)
from instruct_core.errors import CorruptFileError
from instruct_core.storage.store import Store

LOOKS_AT_A_TIME = 16
T = TypeVar("T")


class Found(NamedTuple):
    """What lies in a run's folder."""

    committed: list[int]  # steps with a manifest, oldest first
    unfinished: list[int]  # steps without
    left: list[str]  # folders of removals that were killed
    outdated: list[str]  # in an object store: what lies beside the newer save of a step that counts


class KnownSteps:
    """
    The steps of one run.

    Args:
        store: The run's folder.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._folders: dict[int, str] = {}  # of committed steps
        self._val_losses: dict[int, float | None] = {}

    def look(self) -> Found:
        """Return what is there now; raises OSError."""
        # An object store is asked for all objects, a thousand at a time, and not for its folders: some go
        # on naming those of which every object is gone.
        tree = {} if self._store.is_local else self._store.tree()
        names = self._store.names() if self._store.is_local else {n.partition("/")[0] for n in tree}
        matches = [STEP_FOLDER.fullmatch(name) for name in names]
        steps = sorted(int(match[1]) for match in matches if match)
        if self._store.is_local:
            unknown = [step for step in steps if step not in self._folders]
            found = self._folders | dict(
                zip(unknown, _side_by_side(self._saved_in, unknown), strict=True)
            )
            self._folders = {step: folder for step in steps if (folder := found[step])}
        else:
            self._folders = saved_folders(tree)
        for step in self._val_losses.keys() - self._folders.keys():
            del self._val_losses[step]
        return Found(
            [step for step in steps if step in self._folders],
            [step for step in steps if step not in self._folders],
            sorted(name for name in names if LEFT_FOLDER.fullmatch(name)),
            sorted(set(self._outdated(tree))),
        )

    def _outdated(self, tree: Iterable[str]) -> Iterator[str]:
        for name in tree:
            step, _, rest = name.partition("/")
            match = STEP_FOLDER.fullmatch(step)
            counts = self._folders.get(int(match[1])) if match else None
            save = rest.partition("/")[0]
            if counts is not None and age_of(save) < age_of(counts.rpartition("/")[2]):
                yield f"{step}/{save}"

    def _saved_in(self, step: int) -> str | None:
        # A name that is there is so; one that is not may be what NFS remembers, and a listing is asked.
        folder = step_name(step)
        is_there = self._store.exists(f"{folder}/manifest.json")
        return folder if is_there else saved_in(self._store, step)

    def folder(self, step: int) -> str:
        """Return where the files of a step lie, below the run's folder; "" where that is not known."""
        return self._folders.get(step, "")

    def val_losses(self, steps: list[int]) -> dict[int, float | None]:
        """Return validation losses by step, without those of damaged manifests."""
        unread = [step for step in steps if step not in self._val_losses]
        for step, losses in zip(unread, _side_by_side(self._read, unread), strict=True):
            for loss in losses:
                self._val_losses[step] = loss
        return {step: self._val_losses[step] for step in steps if step in self._val_losses}

    def _read(self, step: int) -> list[float | None]:
        """Return a step's validation loss; [] if its manifest is damaged or gone: loading sees to it."""
        try:
            return [read_manifest(self._store, step, self.folder(step)).val_loss]
        except (CorruptFileError, FileNotFoundError):
            return []

    def forget(self, step: int) -> None:
        """Look at a step anew the next time."""
        self._folders.pop(step, None)
        self._val_losses.pop(step, None)


def _side_by_side(ask: Callable[[int], T], steps: Iterable[int]) -> list[T]:
    """Ask of several steps at a time: a store may be far away."""
    with ThreadPoolExecutor(LOOKS_AT_A_TIME, thread_name_prefix="look") as threads:
        return list(threads.map(ask, steps))
