"""
All runs and arrays at a glance, or one run: what launch/status.py prints, in words or as JSON.

    exit_code = show_status(Status())
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from instruct_core.errors import ConfigError, InstructError
from launch.cluster.bad_nodes import known_bad, to_trust
from launch.cluster.slurm import Controller
from launch.console.commands import command
from launch.console.display import age, clear_screen, share_bar, show_table
from launch.console.lines import counted, one_line, say
from launch.flags.parse import check_name
from launch.runs.difference import document_of_difference, show_difference
from launch.runs.document import document_of_all, document_of_run, json_of
from launch.runs.one_run import show_run
from launch.runs.pace import left_of, unsaved_of
from launch.runs.run import Run, runs_in
from launch.runs.status import RunStatus

if TYPE_CHECKING:
    from launch.flags.status import Status

TITLES = (
    "run", "state", "job", "step", "done", "loss", "tokens/s", "attempt", "last save", "unsaved", "left",
    "note",
)  # fmt: skip
WATCH_SECONDS = 5.0
LONG = 1e12  # a number of more digits is shown in few
NOTE = "job/slurm.json"  # of array jobs, in the folder that they fill
ANSWERS = f"*.parts/{NOTE}"  # below the folder that generate was typed in
pause = time.sleep  # a test's own


def show_status(flags: Status) -> int:
    """Print what the launcher was asked for; return the exit code."""
    if flags.diff is not None and flags.run is None:
        raise ConfigError(
            f"--diff {flags.diff} needs another run: status.py RUN --diff {flags.diff}."
        )
    if flags.diff is not None:
        check_name(flags.diff, "--diff")
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


def _show_once(flags: Status) -> None:
    # One for all: it is asked once, whether it answers or not.
    controller = Controller(for_all=flags.run is None)
    if flags.run is not None:
        status = RunStatus.of(Run.find(flags.run, flags.checkpoints, flags.runs), controller)
        if flags.diff is not None:
            other = RunStatus.of(Run.find(flags.diff, flags.checkpoints, flags.runs), controller)
            _show_difference(status, other, flags.json)
        elif flags.json:
            say(json_of(document_of_run(status)))
        else:
            show_run(status)
        return
    runs = runs_in(flags.checkpoints, flags.runs)
    if flags.json:
        say(json_of(document_of_all(runs, controller)))
        return
    if runs:
        _show_runs(runs, controller)
    else:
        say(f"No runs in {flags.checkpoints}. Begin one: {command('finetune')}")
    for bad in known_bad():
        say(f"Bad node {one_line(bad.line)}. Jobs do without it; again: {to_trust(bad.node)}")
    shards, answers = sorted(Path(flags.shards).glob(f"*/{NOTE}")), sorted(Path().glob(ANSWERS))
    if shards or answers:
        from launch.runs.arrays import show_arrays  # here: plans of data import much

        show_arrays(shards, answers, controller)


def _show_difference(one: RunStatus, other: RunStatus, as_json: bool) -> None:
    if as_json:
        say(json_of(document_of_difference(one, other)))
    else:
        show_difference(one, other)


def _show_runs(runs: Iterable[Run], controller: Controller) -> None:
    table = Table(*TITLES, box=None)
    for run in runs:
        try:
            table.add_row(*_cells(RunStatus.at_a_glance(run, controller)))
        except InstructError as error:
            nothing = [""] * (len(TITLES) - 3)
            table.add_row(run.name, "unreadable", *nothing, str(error))
    show_table(table)


def _cells(status: RunStatus) -> tuple[str, ...]:
    progress, unsaved, left = status.progress(), unsaved_of(status), left_of(status)
    loss, speed = progress.loss, progress.tokens_per_second
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
        "" if loss is None else f"{loss:.4f}" if abs(loss) < LONG else f"{loss:.3g}",
        "" if speed is None else f"{speed:,.0f}" if abs(speed) < LONG else f"{speed:.3g}",
        status.attempt(),
        status.last_save(),
        "" if unsaved is None else f"{counted(unsaved.steps, 'step')}, {age(unsaved.seconds)}",
        to_go,
        status.note(),
    )
