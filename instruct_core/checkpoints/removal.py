"""
How a step, or what a save has left of it, goes.

    clear_step(store, 100, attempt=3)         # fine if there is nothing
    set_aside(store, 100, attempt=3)          # "damaged-step-00000100-attempt-0003"

Who removes something may have been overtaken since it looked, and a newer attempt may have written the
same step: on a disk a folder is taken away in one piece, and goes for good only if nobody newer has begun
by then. In an object store each save has a folder of its own: what goes is what no newer attempt can have
written, and whenever the request arrives, it meets nothing else.
"""

from __future__ import annotations

import contextlib
import re

from instruct_core.checkpoints.attempts import check_fence
from instruct_core.checkpoints.steps import age_of, folder_of, step_name
from instruct_core.errors import FencedError
from instruct_core.storage.store import Store

LEFT_FOLDER = re.compile(r"left-step-\d{8}-attempt-\d{4,}")


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


def clear_step(store: Store, step: int, attempt: int) -> None:
    """
    Remove a step, and nothing that a newer attempt has written.

    Args:
        store: The run's folder.
        step: Whose folder goes.
        attempt: Ours.

    Raises:
        FencedError: A newer attempt has begun: what may be its own is where it was. On a disk alone.
    """
    if store.is_local:
        drop(store, take_away(store, step, attempt))
        return
    folder = step_name(step)
    names = [name for name in store.names(folder) if age_of(name)[0] <= attempt]
    for name in sorted(names, key=lambda name: name != "manifest.json"):
        remove_save(store, f"{folder}/{name}")


def take_away(store: Store, step: int, attempt: int) -> str:
    """
    Have no folder of a step, on a disk; return what it is called now, which `drop` removes; "" for none.

    Arguments and errors as of `clear_step`.
    """
    folder = step_name(step)
    aside = f"left-{folder}-attempt-{attempt:04d}"
    store.remove(aside)
    try:
        store.move(folder, aside)
    except FileNotFoundError:  # nothing was left
        return ""
    except OSError:
        with contextlib.suppress(OSError):  # it was not moved, or its answer was lost
            store.move(aside, folder)
        raise
    _put_back_if_fenced(store, folder, aside, attempt)
    return aside


def drop(store: Store, aside: str) -> None:
    """Remove what was taken away, if there is such."""
    if aside:
        store.remove(f"{aside}/manifest.json")  # what still has one may have to go back
        store.remove(aside)


def remove_save(store: Store, folder: str) -> None:
    """Remove the folder of one save in an object store, manifest first, or an older version's object."""
    if age_of(folder.rpartition("/")[2])[0] >= 0:
        store.remove(f"{folder}/manifest.json")
    store.remove(folder)


def set_aside(store: Store, step: int, attempt: int, folder: str = "") -> str:
    """
    Give a damaged checkpoint a name under which it is no checkpoint, and return the name.

    Args:
        store: The run's folder.
        step: Of the checkpoint.
        attempt: Ours; -1 for somebody who is none.
        folder: Where the damaged files lie, where that is known.

    Raises:
        FencedError: A newer attempt has begun, and what is there now may be its own: it stays.
    """
    folder = folder or folder_of(store, step)
    aside = f"damaged-{step_name(step)}-attempt-{max(attempt, 0):04d}"
    while store.exists(aside):
        aside += "-again"
    if attempt >= 0 and not store.is_local:  # nothing can be put back in one piece
        check_fence(store, attempt)
    store.move(folder, aside)
    if attempt >= 0 and store.is_local:
        _put_back_if_fenced(store, folder, aside, attempt)
    return aside


def _put_back_if_fenced(store: Store, folder: str, aside: str, attempt: int) -> None:
    """Put a folder back that was taken away, and raise, if nobody can say that it was ours to take."""
    try:
        check_fence(store, attempt)
    except (OSError, FencedError):
        with contextlib.suppress(OSError):  # a newer one has begun anew there
            store.move(aside, folder)
        raise
