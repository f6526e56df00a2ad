"""
What a run has left of itself: its settings, where its jobs are noted, its newest good step.

    store = find_run("my-run", "checkpoints_instruct")
    stored = stored_config(store)

A project may be moved: places below the folder that held the checkpoints are looked for beside
where they lie now.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from instruct_core.checkpoints.steps import committed_steps, damage_of, step_name
from instruct_core.config import TrainConfig, from_json
from instruct_core.errors import MissingError
from instruct_core.storage.documents import load_document
from instruct_core.storage.store import Store
from launch.console.lines import note, say
from launch.flags.parse import check_name
from launch.runs.places import absolute, reachable


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


def run_of(run: str, checkpoints: str) -> Store:
    check_name(run)
    store = Store(absolute(checkpoints)) / run
    with reachable("--checkpoints", checkpoints):
        there = store.exists("run.json")
    if not there:
        raise MissingError(
            f"Run {run} is not there: no {store.where('run.json')}. All runs: python launch/status.py"
        )
    return store


def newest_good(store: Store, run: str) -> int:
    for step in reversed(committed_steps(store)):
        if not (damage := damage_of(store, step)):
            return step
        say(f"{damage} Taking the one before.")
    raise MissingError(f"Run {run} has no checkpoint that can be loaded, in {store.url}.")


def find_run(run: str | None, checkpoints: str) -> Store:
    """
    Return the folder of a run's checkpoints; of the run that saved last where none is named.

    Raises:
        MissingError: No such run, or none at all.
    """
    store = Store(checkpoints)
    name = run or latest_run(store)
    if not (store / name).names():
        raise MissingError(
            f"Run {name} is not there: no folder of that name in {store.url}. "
            f"Runs: {', '.join(_runs(store)) or 'none'}."
        )
    return store / name


def latest_run(store: Store) -> str:
    """Return the run that saved last, by the manifests' own words."""
    saved = []
    for name in _runs(store):
        for step in committed_steps(store / name)[-1:]:
            manifest = load_document(store / name, f"{step_name(step)}/manifest.json")
            saved.append((float(manifest.get("saved_at", 0)), name))
    if not saved:
        raise MissingError(
            f"No run in {store.url} has saved yet. Train one: python launch/finetune.py, or name a "
            "model: --checkpoint PATH"
        )
    return max(saved)[1]


def _runs(store: Store) -> list[str]:
    return [name for name in store.names() if store.exists(f"{name}/run.json")]


def newest_verified(store: Store) -> str:
    """Return the place of a run's newest step of which every byte is right."""
    for step in reversed(committed_steps(store)):
        if not (damage := damage_of(store, step)):
            return (store / step_name(step)).url
        note(f"{damage} Taking the one before.")
    raise MissingError(f"Run {store.url} has no checkpoint that can be loaded yet.")
