"""
All runs and arrays at a glance, or one run: what launch/status.py prints, in words or as JSON.

    exit_code = show_status(Status())
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from instruct_core.errors import ConfigError
from instruct_core.recipe import flag_of
from instruct_core.storage.store import Store
from jobs.job_folder import Progress
from launch.cluster.bad_nodes import known_bad, to_trust
from launch.cluster.job_folder import array_parent
from launch.cluster.slurm import Controller
from launch.console.commands import command
from launch.console.display import age, clear_screen, share_bar, show_table
from launch.console.lines import counted, say, say_whole
from launch.flags.parse import check_name
from launch.runs.away import KnownRun, Look
from launch.runs.difference import document_of_difference, show_difference
from launch.runs.document import document_of_all, document_of_part, document_of_run, json_of
from launch.runs.one_run import show_run
from launch.runs.pace import left_of, unsaved_of
from launch.runs.places import absolute, check_looked_in, reachable
from launch.runs.run import Run
from launch.runs.status import RunStatus

if TYPE_CHECKING:
    from launch.flags.status import Status

TITLES = (
    "run", "state", "job", "step", "done", "loss", "tokens/s", "attempt", "last save", "unsaved", "left",
    "note",
)  # fmt: skip
WATCH_SECONDS = 5.0
LONG = 1e12  # a number of more digits is shown in few
NOTE = "slurm.json"  # of array jobs, where they have their folders
ANSWERS = "*.parts"  # in the folder that generate was typed in
SHOWN = "What this machine knows is shown."
pause = time.sleep  # a test's own


def show_status(flags: Status) -> int:
    """Print what the launcher was asked for; return the exit code."""
    if flags.diff is not None and flags.run is None:
        raise ConfigError(
            f"--diff {flags.diff} needs another run: status.py RUN --diff {flags.diff}."
        )
    if flags.diff is not None:
        check_name(flags.diff, "--diff")
    if flags.run is None:
        _check_places(flags)
    if not flags.watch:
        _show_once(flags)
        return 0
    try:
        while True:
            if not flags.json:
                clear_screen()
                say(time.strftime("%Y-%m-%d %H:%M:%S %Z, Ctrl-C ends"))
            _show_once(flags)
            pause(WATCH_SECONDS)
    except KeyboardInterrupt:
        return 0


def _check_places(flags: Status) -> None:
    """Refuse places to look in that are no folders, or were typed and are not there."""
    for name in ("checkpoints", "shards"):
        place, usual = getattr(flags, name), getattr(type(flags), name)
        check_looked_in(flag_of(name), place, may_be_missing=place == usual)
    if flags.runs is not None:
        check_looked_in("--runs", flags.runs, may_be_missing=False)


def _show_once(flags: Status) -> None:
    # One for all: it is asked once, whether it answers or not, and so is each bucket.
    look = Look(Controller(for_all=flags.run is None))
    if flags.run is not None:
        _show_one(flags.run, flags, look)
        return
    if flags.json:
        say_whole(json_of(document_of_all(look, flags.checkpoints, flags.runs)))
        return
    rows = look.at_all(flags.checkpoints, flags.runs, _cells, _known_cells)
    if rows:
        show_table(_table(rows))
    elif not look.away:
        say(f"No runs in {flags.checkpoints}. Begin one: {command('finetune')}")
    for problem in look.away:
        say(f"{problem}. {SHOWN}")
    for bad in known_bad():
        say(f"Bad node {bad.line}. Jobs do without it; again: {to_trust(bad.node)}")
    with reachable("--shards", flags.shards):
        shards = Store(absolute(flags.shards))
        sets = _with_jobs(shards / name for name in shards.names())
    parts = _with_jobs(Store(absolute(str(path))) for path in sorted(Path().glob(ANSWERS)))
    if sets or parts:
        from launch.runs.arrays import show_arrays  # here: plans of data import much

        show_arrays(sets, parts, look.controller)


def _with_jobs(stores: Iterable[Store]) -> list[Store]:
    """Return the stores that array jobs fill, or have filled: their note is on this disk."""
    return [store for store in stores if _is_there(array_parent(store) / NOTE)]


def _is_there(note: Path) -> bool:
    with suppress(PermissionError):  # a set that is somebody's alone, among those of others
        return note.exists()
    return False


def _show_one(name: str, flags: Status, look: Look) -> None:
    if (known := look.at_part(name, flags.checkpoints, flags.runs)) is not None:
        _show_part(known, flags)
        return
    status = RunStatus.of(Run.find(name, flags.checkpoints, flags.runs), look.controller)
    if flags.diff is not None:
        other = RunStatus.of(Run.find(flags.diff, flags.checkpoints, flags.runs), look.controller)
        _show_difference(status, other, flags.json)
    elif flags.json:
        say_whole(json_of(document_of_run(status)))
    else:
        show_run(status)


def _show_part(known: KnownRun, flags: Status) -> None:
    """Show a run whose bucket does not answer."""
    if flags.diff is not None:
        raise ConfigError(f"--diff {flags.diff} needs all of both runs, and {known.problem}.")
    if flags.json:
        say_whole(json_of(document_of_part(known)))
        return
    show_table(_table([_known_cells(known)]))
    say(f"{known.problem}. {SHOWN}")


def _show_difference(one: RunStatus, other: RunStatus, as_json: bool) -> None:
    if as_json:
        say_whole(json_of(document_of_difference(one, other)))
    else:
        show_difference(one, other)


def _table(rows: Iterable[Sequence[str]]) -> Table:
    table = Table(*TITLES, box=None)
    for row in rows:
        table.add_row(*row)
    return table


def _cells(status: RunStatus) -> tuple[str, ...]:
    progress, unsaved, left = status.progress(), unsaved_of(status), left_of(status)
    to_go = ""
    if left is not None:
        to_go = age(left.seconds)
        if left.starts is not None and left.starts > 1:
            to_go += f" in {counted(left.starts, 'start')}"
    return (
        status.run.name,
        status.state(),
        status.job_id(),
        status.step(),
        share_bar(status.reached_step() / max(1, status.run.config.max_steps)),
        *_pace(progress),
        status.attempt(),
        status.last_save(),
        "" if unsaved is None else f"{counted(unsaved.steps, 'step')}, {age(unsaved.seconds)}",
        to_go,
        status.note(),
    )


def _known_cells(known: KnownRun) -> tuple[str, ...]:
    told = known.progress
    step, of = told.global_step, told.max_steps
    return (
        known.name,
        known.state,
        known.job,
        "" if step is None else f"{step} of {'?' if of is None else of}",
        "" if step is None or of is None else share_bar(step / max(1, of)),
        *_pace(told),
        "" if told.attempt is None else str(told.attempt),
        "" if told.committed is None else f"step {told.committed}",
        "",
        "",
        known.problem,
    )


def _pace(progress: Progress) -> tuple[str, str]:
    """Return loss and tokens per second; of numbers too long for a table some digits."""
    loss, speed = progress.loss, progress.tokens_per_second
    return (
        "" if loss is None else f"{loss:.4f}" if abs(loss) < LONG else f"{loss:.3g}",
        "" if speed is None else f"{speed:,.0f}" if abs(speed) < LONG else f"{speed:.3g}",
    )
