"""
Remove a run with all that it has left: checkpoints, ledger, curves, logs, job folders.

    exit_code = remove(Control(run="my-run", verb="remove", dry_run=True))

Killed half-way, the same command goes on: see unfinished.py.
"""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from typing import NamedTuple

from instruct_core.storage.store import Store
from launch.console.lines import say
from launch.flags.control import Control
from launch.runs.control import allowed, at_rest
from launch.runs.places import absolute
from launch.runs.run import Run
from launch.runs.unfinished import REMOVED, begin, empty, mark_in, refuse_links


class _Folder(NamedTuple):
    what: str
    store: Store

    @property
    def num_bytes(self) -> int:
        return sum(size or 0 for size in self.store.tree().values())


def remove(flags: Control) -> int:
    """
    Remove a run, or say what would go; return the exit code.

    Raises:
        ConfigError: It trains or waits, or is not ours to remove.
        MissingError: There is no such run.
    """
    run = Run.named(flags.run, flags.checkpoints)
    begun = mark_in(run.store, REMOVED)
    if begun is not None:
        run = Run(run.name, run.store, str(begun.get("runs", "")))
    else:
        run = Run.find(flags.run, flags.checkpoints, flags.runs)
        run = Run(run.name, run.store, run.ledger.url.rpartition("/")[0])
    folders = _folders(run)
    refuse_links(run.name, (folder.store for folder in folders), "removed")
    if flags.dry_run:
        _show(run, folders, "Would remove")
        return 0
    with ExitStack() as stack:
        with allowed(run):
            stack.enter_context(at_rest(run, "removed"))
            for place in (run.checkpoints, run.store.url, run.runs):
                Store(place).try_out()
        _show(run, folders, "Removes")  # who does not take it is no disk of the run's
        with allowed(run):
            begin(run.store, REMOVED, {"run": run.name, "runs": run.runs})
            _remove(run)
    say(f"Run {run.name} is removed.")
    return 0


def _folders(run: Run) -> list[_Folder]:
    """Return where a run has left something."""
    folders = [_Folder("checkpoints", run.store), _Folder("ledger, curves and logs", run.ledger)]
    if not run.ledger.is_local:
        folders.append(_Folder("job folders", Store(absolute(str(run.job_parent.parent)))))
    return folders


def _show(run: Run, folders: list[_Folder], verb: str) -> None:
    sizes = [folder.num_bytes for folder in folders]
    for (what, store), num_bytes in zip(folders, sizes, strict=True):
        say(f"{verb} {num_bytes / 1e6:,.1f} MB of {what}: {store.url}")
    say(f"Run {run.name}: {sum(sizes):,} bytes in all.")


def _remove(run: Run) -> None:
    """Remove all that is left of a run, its mark last."""
    if not run.ledger.is_local:
        shutil.rmtree(run.job_parent.parent, ignore_errors=True)
    Store(run.runs).remove(run.name)
    for name in run.store.names():
        if name != REMOVED:
            run.store.remove(name)
    run.store.remove(REMOVED)
    empty(Store(run.checkpoints), run.name)
