"""
Where jobs have their folders: one numbered folder a submission.

    folder = new_job_folder(array_parent(store))
"""

from __future__ import annotations

from pathlib import Path

from instruct_core.storage.store import Store

# submitit counts warnings as time-outs and gives up after so many (on limits up to 10 minutes every
# signal is one); our own rules decide instead.
UNLIMITED = 10**6


def array_parent(store: Store) -> Path:
    """Return where the jobs that fill a store with parts have their folders."""
    if store.is_local:
        return store.local_path("job")
    return Path("runs_instruct/array-jobs").resolve() / store.url.rsplit("/", 1)[-1]


def new_job_folder(parent: Path) -> Path:
    """Create and return the next numbered folder below ``parent``; nothing stale is in it."""
    parent.mkdir(parents=True, exist_ok=True)
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
    return sorted(path for path in parent.glob("[0-9]*") if path.is_dir())
