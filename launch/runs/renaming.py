"""
Give a run another name: its folders move, and its settings say so.

    exit_code = rename(Control(run="my-run", verb="rename", value="other"))

Killed half-way, the same command goes on: see unfinished.py. Steps keep the name that they were saved
under in their manifests, which nothing depends on.
"""

from __future__ import annotations

from typing import Any

from instruct_core.errors import ConfigError
from instruct_core.storage.documents import dump_document
from instruct_core.storage.looks import is_there
from instruct_core.storage.patience import on_a_disk
from instruct_core.storage.store import Store
from launch.console.lines import say
from launch.flags.control import Control
from launch.runs.control import allowed, at_rest
from launch.runs.run import Run
from launch.runs.unfinished import RENAMED, begin, empty, mark_in, refuse_links

ITS_JOBS = "slurm.json"  # of a job that has ended, by the path it had


def rename(flags: Control) -> int:
    """
    Rename a run; return the exit code.

    Raises:
        ConfigError: It trains or waits, the name is taken, or it is not ours to rename.
        MissingError: There is no such run.
    """
    old = Run.named(flags.run, flags.checkpoints)
    new = Run.named(flags.value or "", flags.checkpoints)
    begun = _begun(old, new)
    if begun is None:
        old = Run.find(flags.run, flags.checkpoints, flags.runs)
        runs = old.ledger.url.rpartition("/")[0]
        old, new = Run(old.name, old.store, runs), Run(new.name, new.store, runs)
        _refuse_taken(new)
    else:
        old, new = (Run(run.name, run.store, str(begun["runs"])) for run in (old, new))
    refuse_links(old.name, (old.store, old.ledger, Store(old.job_parent.parent)), "renamed")
    with allowed(old), at_rest(old, "renamed"):
        for place in (old.checkpoints, old.runs):
            Store(place).try_out()
        facts = begun or _facts(old, new)
        new.store.replace(RENAMED, dump_document(facts))
        try:
            begin(old.store, RENAMED, facts)
        except PermissionError:
            if begun is None:
                new.store.remove(RENAMED)
                empty(Store(new.checkpoints), new.name)
            raise
        _move(old, new)
        new.store.replace("run.json", dump_document(facts["document"]))
        new.store.remove(RENAMED)
    say(f"Run {old.name} is {new.name} now: {new.store.url}")
    return 0


def _begun(old: Run, new: Run) -> dict[str, Any] | None:
    """Return what a renaming of these two that was begun has written down."""
    for run in (old, new):
        facts = mark_in(run.store, RENAMED)
        if facts is not None and (facts.get("from"), facts.get("to")) == (old.name, new.name):
            return facts
    return None


def _facts(old: Run, new: Run) -> dict[str, Any]:
    document = old.document
    config = {**document["config"], "run": new.name}
    return {
        "format": 1,
        "from": old.name,
        "to": new.name,
        "runs": old.runs,
        "document": {**document, "config": config, "renamed_from": old.name},
    }


def _refuse_taken(new: Run) -> None:
    for store in (new.store, new.ledger):
        if store.names():
            raise ConfigError(
                f"rename NAME must be a name that is free, got {new.name}: {store.url} is there."
            )


def _move(old: Run, new: Run) -> None:
    """Move all that an old name has to a new one, entry by entry; what has moved already stays."""
    _move_entries(Store(old.runs), old.name, new.name)
    has_jobs = on_a_disk(old.job_parent, lambda: is_there(old.job_parent))
    if has_jobs and not old.ledger.is_local:
        new.job_parent.parent.parent.mkdir(parents=True, exist_ok=True)
        old.job_parent.parent.rename(new.job_parent.parent)
    _move_entries(Store(old.checkpoints), old.name, new.name)
    old.store.remove(RENAMED)
    empty(Store(old.checkpoints), old.name)


def _move_entries(place: Store, old: str, new: str) -> None:
    for name in place.names(old):
        if name == ITS_JOBS:
            place.remove(f"{old}/{name}")
        elif name != RENAMED:
            place.move(f"{old}/{name}", f"{new}/{name}")
    empty(place, old)
