"""
A removal or a renaming that was begun and has not ended: its mark, and what to do about it.

    begin(store, REMOVED, {"run": "my-run", "runs": "/shared/runs"})     # run.json goes, the mark stays
    refuse_unfinished("my-run", store)                                  # raises ConfigError

The mark is there before anything goes, and is the last to go: what lies between is no run to any
command, and the same control command finishes it.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterable, Mapping
from typing import Any

from instruct_core.data.columns import shown_names
from instruct_core.errors import ConfigError
from instruct_core.storage.documents import dump_document, load_document
from instruct_core.storage.store import Store
from launch.runs.commands import run_command

# What a disk says of a path with a file, a circle of links or too long a name in it.
NO_FOLDER = (errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
REMOVED, RENAMED = "removed.json", "renamed.json"
# What may be there without settings: of a launcher that was killed, or a run whose run.json is gone.
OF_A_RUN = re.compile(
    r"lock|slurm\.json|tokenizer|chat_template\.jinja|attempts|committed\.json|control-.*\.json"
    r"|(step|attempt|damaged-step|left-step)-\d.*"
)


def begin(store: Store, mark: str, facts: Mapping[str, Any]) -> None:
    """
    Leave a mark in a run's folder, and make it no run.

    Raises:
        PermissionError: Only who owns a file may remove it there. Nothing is begun then.
    """
    is_new = mark_in(store, mark) is None
    store.replace(mark, dump_document({"format": 1, **facts}))
    try:
        store.remove("run.json")
    except PermissionError:
        if is_new:
            store.remove(mark)
        raise


def mark_in(store: Store, mark: str) -> dict[str, Any] | None:
    """Return what a mark says; None where there is none. Raises ConfigError where no folder can be."""
    try:
        return load_document(store, mark)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno not in NO_FOLDER:
            raise
        raise ConfigError(
            f"Folder {store.url} cannot be used: {error.strerror}. Look at --checkpoints, or give "
            "another place."
        ) from None


def refuse_unfinished(name: str, store: Store) -> None:
    """
    Refuse a folder that is neither a run nor free.

    Raises:
        ConfigError: Names the command that finishes what was begun.
    """
    if mark_in(store, REMOVED) is not None:
        raise ConfigError(
            f"Run {name} is half removed, in {store.url}. Finish that: "
            f"{run_command(store, 'control', 'remove')}"
        )
    if (facts := mark_in(store, RENAMED)) is not None:
        before = Store(store.url.rpartition("/")[0]) / str(facts.get("from"))
        raise ConfigError(
            f"Run {name} is half renamed, in {store.url}. Finish that: "
            f"{run_command(before, 'control', 'rename', str(facts.get('to')))}"
        )


def refuse_links(name: str, stores: Iterable[Store], verb: str) -> None:
    """
    Refuse a run whose folder is a link: what it leads to would stay, or not come along.

    Args:
        name: Of the run.
        stores: Of what it has left.
        verb: What would be done to it: removed, renamed.

    Raises:
        ConfigError: Names the link, and where it leads.
    """
    for folder in (store.local_path("") for store in stores if store.is_local):
        if folder.is_symlink():
            raise ConfigError(
                f"Run {name} cannot be {verb}: {folder} is a link to {folder.readlink()}. Put that "
                "folder in the link's place, and give the same command again."
            )


def refuse_taken(name: str, store: Store) -> None:
    """
    Refuse a folder for a new run that has things of others in it: they would go when the run is removed.

    Raises:
        ConfigError: Names some of them.
    """
    others = [each for each in store.contents() if not OF_A_RUN.fullmatch(each)]
    if others:
        raise ConfigError(
            f"Run {name} cannot begin: its folder {store.url} is in use, with {shown_names(others)}. "
            "Give another --run, or other --checkpoints."
        )


def empty(place: Store, name: str) -> None:
    """Remove a folder that nothing is in; on an object store there is none."""
    if place.is_local:
        folder = place.local_path(name)
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
