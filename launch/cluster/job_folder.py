"""
Where jobs have their folders: one numbered folder a submission.

    folder = new_job_folder(array_parent(store))
"""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path

from instruct_core.errors import ConfigError
from instruct_core.storage.looks import entries_in, is_folder, is_there
from instruct_core.storage.names import real_path
from instruct_core.storage.patience import on_a_disk
from instruct_core.storage.store import Store

# submitit counts warnings as time-outs and gives up after so many (on limits up to 10 minutes every
# signal is one); our own rules decide instead.
UNLIMITED = 10**6


def array_parent(store: Store) -> Path:
    """Return where the jobs that fill a store with parts have their folders."""
    if store.is_local:
        return store.local_path("job")
    parent = real_path("runs_instruct/array-jobs")
    return folder_of_url(parent / store.url.rsplit("/", 1)[-1], store.url, "slurm.json")


def folder_of_url(folder: Path, url: str, sign: str) -> Path:
    """
    Return the folder on this disk that stands for a URL, of which many end in the same word.

    Args:
        folder: Named by the last word alone, as it was once; taken where ``sign`` is in it.
        url: What it stands for.
        sign: Name of a file that only the jobs of a URL leave there.
    """
    if is_there(folder / sign):
        return folder
    return folder.with_name(f"{folder.name}-{hashlib.sha256(url.encode()).hexdigest()[:8]}")


def new_job_folder(parent: Path) -> Path:
    """
    Create and return the next numbered folder below ``parent``; nothing stale is in it.

    What lies in it is run at every start of the job, days later too, so nobody else may write it.

    Raises:
        ConfigError: The folder around it belongs to somebody else, who could put another in its place.
    """
    on_a_disk(parent, lambda: parent.mkdir(parents=True, exist_ok=True))
    # One that was made though the answer was lost stays empty: it may as well be somebody else's.
    folder = on_a_disk(parent, lambda: _make_next(parent))
    # Not the user's id: some network disks tell of another one.
    if on_a_disk(parent, lambda: parent.stat().st_uid != folder.stat().st_uid):
        folder.rmdir()
        raise ConfigError(
            f"Folder {parent} belongs to {parent.owner()}, who could change what your jobs run. Give "
            "another place, or another --run."
        )
    for place in (parent, folder):
        on_a_disk(place, partial(_keep_others_out, place))
    return folder


def _keep_others_out(place: Path) -> None:
    place.chmod(place.stat().st_mode & ~0o022)


def _make_next(parent: Path) -> Path:
    number = len(job_folders(parent))
    while True:
        folder = parent / f"{number:04d}"
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
        else:
            return folder


def job_folders(parent: Path) -> list[Path]:
    """Return the numbered job folders below ``parent``, oldest first."""
    return [path for path in entries_in(parent, "[0-9]*") if is_folder(path)]
