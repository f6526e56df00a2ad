"""
What a run has left of itself: its settings, and where its jobs are noted.

    stored = stored_config(Store("checkpoints_instruct/my-run"))

A project may be moved: places below the folder that held the checkpoints are looked for beside
where they lie now.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from instruct_core.config import TrainConfig, from_json
from instruct_core.storage.documents import load_document
from instruct_core.storage.store import Store


def stored_document(store: Store) -> dict[str, Any] | None:
    """Return a run's run.json; None for a run that is not there. Raises CorruptFileError."""
    try:
        return load_document(store, "run.json")
    except FileNotFoundError:
        return None


def stored_config(store: Store) -> TrainConfig | None:
    """Return the settings a run was begun with, where it lies now; None for one that is not there."""
    document = stored_document(store)
    if document is None:
        return None
    stored = from_json(document.get("config"), store.where("run.json"))
    checkpoints = store.url.rpartition("/")[0]
    before, now = (str(Path(place).parent) for place in (stored.checkpoints, checkpoints))
    if before == now or "://" in stored.checkpoints + checkpoints:
        return replace(stored, checkpoints=checkpoints)

    def moved(place: str) -> str:
        return now + place.removeprefix(before) if place.startswith(f"{before}/") else place

    return replace(
        stored,
        checkpoints=checkpoints,
        shards=moved(stored.shards),
        init=moved(stored.init),
        runs=moved(stored.runs),
    )


def job_parent(runs: str, run: str) -> Path:
    """Return where a run's jobs have their folders: beside its ledger if that is on a disk."""
    place = runs if "://" not in runs else "runs_instruct"
    return Path(place).resolve() / run / "job"


def lock_path(store: Store, parent: Path) -> Path:
    """Return the lock of a run: beside its checkpoints if they are on a disk."""
    return store.local_path("lock") if store.is_local else parent / "lock"


def note_path(lock: Path) -> Path:
    """Return where word of a run's job on Slurm is left: beside its lock."""
    return lock.with_name("slurm.json")
