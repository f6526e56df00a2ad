"""
Which shard set a run is to use, and what to do where it is not there.

    shards = find_shards("shards/mine")
    fingerprint = fingerprint_of(shards, can_wait=True)
"""

from __future__ import annotations

from pathlib import Path

from instruct_core.data.remake import command_that_makes
from instruct_core.data.set_manifest import load_manifest
from instruct_core.errors import ConfigError, MissingError
from instruct_core.storage.documents import load_document
from instruct_core.storage.store import Store
from jobs.failures import read_outcome
from launch.cluster.slurm import array_job, running_array
from launch.console.commands import command
from launch.console.lines import counted, perhaps
from launch.runs.places import absolute, reachable

PREFERRED = ("shards/alpaca", "shards/alpaca-gpt4", "shards/builtin")


def find_shards(typed: str | None, after: str | None = None) -> str:
    """
    Return the shard set to use; one that is not finished only for `builtin`, or while it is made.

    Raises:
        MissingError: The typed one is not there.
        ConfigError: None was typed, and there are several.
    """
    if typed is not None:
        store = Store(absolute(typed))
        if store.is_local and store.local_path("").is_file():
            out = f"shards/{Path(typed).name.split('.')[0]}"
            make = command("preprocess", "--source", typed, "--out", out)
            raise ConfigError(f"--shards {typed} is a file, and no shard set. Prepare it: {make}")
        with reachable("--shards", typed):
            if not store.exists("manifest.json") and not is_being_made(store, after):
                raise _not_there(typed, store)
        return absolute(typed)
    for place in PREFERRED:
        if (Path(place) / "manifest.json").exists():
            return absolute(place)
    others = _sets_in(Store(absolute("shards")))
    if len(others) > 1:
        names = ", ".join(f"shards/{name}" for name in others)
        raise ConfigError(f"--shards must name one of {names}: there are several.")
    return absolute(f"shards/{others[0]}" if others else PREFERRED[-1])


def is_being_made(shards: Store, after: str | None) -> bool:
    """Return True if the job may wait for shards: tasks make them, or it was told to wait."""
    if not shards.exists("plan.json"):
        return False
    job = running_array(shards)
    return after is not None or (job is not None and not job.never_starts())


def fingerprint_of(shards: str, can_wait: bool) -> str:
    """
    Return the fingerprint of shards that are there, or being made.

    Args:
        shards: Their place.
        can_wait: Whether the job can wait for them.

    Raises:
        ConfigError: They are still being made, and the job is not on Slurm.
    """
    store = Store(shards)
    if store.exists("manifest.json"):
        return load_manifest(store).fingerprint
    if not can_wait:
        raise ConfigError(
            f"Shards {shards} are still being made on Slurm. Wait for them, or train on Slurm too."
        )
    return str(load_document(store, "plan.json")["fingerprint"])


def _not_there(typed: str, store: Store) -> MissingError:
    """Return what is said of shards that are not there: why, those that are, how to make them."""
    said = f"Shards {typed} are not there or not finished: no manifest.json in it."
    if job := array_job(store):
        failed = [
            read_outcome(path.parent) for path in sorted(job.folder.glob("task-*/failed.json"))
        ]
        if errors := [outcome.error for outcome in failed if outcome is not None]:
            said += f" {counted(len(errors), 'task')} of job {job.job_id} failed: {errors[0]}"
    if not store.exists("plan.json"):
        above, slash, name = typed.rstrip("/").rpartition("/")
        above += slash or "shards/"  # of a name alone
        there = _sets_in(Store(absolute(above)))
        places = ", ".join(above + name for name in there)
        said += f"{perhaps(name, there, above)} Sets there: {places or 'none'}."
    return MissingError(f"{said} Make them: {command_that_makes(store, typed)}")


def _sets_in(folder: Store) -> list[str]:
    """Return the names of shard sets; checkpoints and answers have a manifest too."""
    return [
        name
        for name in folder.names()
        if all(folder.exists(f"{name}/{part}") for part in ("manifest.json", "train"))
    ]
